"""Names of samplers as other tools list them, each where it was read (November 2026)."""

from __future__ import annotations

# https://github.com/AUTOMATIC1111/stable-diffusion-webui: sd_samplers_kdiffusion.py, sd_samplers_timesteps.py and
# sd_samplers_lcm.py, of 1.10 and, with a schedule in the name, of 1.8 and before; the last are short names of its API
WEB_UI = """
DPM++ 2M|DPM++ SDE|DPM++ 2M SDE|DPM++ 2M SDE Heun|DPM++ 2S a|DPM++ 3M SDE|Euler a|Euler|LMS|Heun|DPM2|DPM2 a|DPM fast
DPM adaptive|Restart|DDIM|DDIM CFG++|PLMS|UniPC|LCM|DPM++ 2M Karras|DPM++ SDE Karras|DPM++ 2M SDE Exponential
DPM++ 2M SDE Karras|DPM++ 2M SDE Heun Karras|DPM++ 2M SDE Heun Exponential|DPM++ 3M SDE Karras|DPM++ 3M SDE Exponential
LMS Karras|DPM2 Karras|DPM2 a Karras|DPM++ 2S a Karras|k_euler_a|k_lms_ka|k_dpm_2_a_ka|k_dpmpp_2m_ka|k_dpmpp_2m_sde_exp
k_dpmpp_sde_ka|k_dpm_fast
"""
WEB_UI_SCHEDULES = """
Automatic|Uniform|Karras|Exponential|Polyexponential|SGM Uniform|KL Optimal|Align Your Steps|Simple|Normal|DDIM|Beta
Turbo|karras|sgm_uniform|SGMUniform|align_your_steps
"""
# https://github.com/comfyanonymous/ComfyUI: comfy/samplers.py
COMFY = """
euler|euler_cfg_pp|euler_ancestral|euler_ancestral_cfg_pp|heun|heunpp2|exp_heun_2_x0|exp_heun_2_x0_sde|dpm_2
dpm_2_ancestral|lms|dpm_fast|dpm_adaptive|dpmpp_2s_ancestral|dpmpp_2s_ancestral_cfg_pp|dpmpp_sde|dpmpp_sde_gpu|dpmpp_2m
dpmpp_2m_cfg_pp|dpmpp_2m_sde|dpmpp_2m_sde_gpu|dpmpp_2m_sde_heun|dpmpp_2m_sde_heun_gpu|dpmpp_3m_sde|dpmpp_3m_sde_gpu|ddpm
lcm|ipndm|ipndm_v|deis|res_multistep|res_multistep_cfg_pp|res_multistep_ancestral|res_multistep_ancestral_cfg_pp
gradient_estimation|gradient_estimation_cfg_pp|er_sde|seeds_2|seeds_3|sa_solver|sa_solver_pece|ddim|uni_pc|uni_pc_bh2
"""
COMFY_SCHEDULES = "normal|karras|exponential|sgm_uniform|simple|ddim_uniform|beta|linear_quadratic|kl_optimal"
# https://github.com/invoke-ai/InvokeAI: invokeai/backend/stable_diffusion/schedulers/schedulers.py
INVOKE = """
ddim|ddpm|deis|deis_k|lms|lms_k|pndm|heun|heun_k|euler|euler_k|euler_a|kdpm_2|kdpm_2_k|kdpm_2_a|kdpm_2_a_k|dpmpp_2s
dpmpp_2s_k|dpmpp_2m|dpmpp_2m_k|dpmpp_2m_sde|dpmpp_2m_sde_k|dpmpp_3m|dpmpp_3m_k|dpmpp_sde|dpmpp_sde_k|er_sde|unipc
unipc_k|lcm|tcd
"""
# https://github.com/replicate/cog-sdxl: predict.py, and models beside it
REPLICATE = "DDIM|DPMSolverMultistep|HeunDiscrete|KarrasDPM|K_EULER_ANCESTRAL|K_EULER|PNDM|K_LMS|KLMS|DPM++2MSDE"
# https://platform.stability.ai/docs/api-reference, version 1
STABILITY = """
DDPM|K_DPMPP_2M|K_DPMPP_2S_ANCESTRAL|K_DPM_2|K_DPM_2_ANCESTRAL|K_HEUN
"""
# https://huggingface.co/docs/diffusers/api/schedulers/overview
DIFFUSERS = """
DPMSolverMultistepScheduler|DPMSolverSinglestepScheduler|DPMSolverSDEScheduler|KDPM2DiscreteScheduler
KDPM2AncestralDiscreteScheduler|EulerDiscreteScheduler|EulerAncestralDiscreteScheduler|HeunDiscreteScheduler
LMSDiscreteScheduler|DEISMultistepScheduler|UniPCMultistepScheduler|PNDMScheduler|DDIMScheduler|DDPMScheduler
LCMScheduler|TCDScheduler|SASolverScheduler|EDMEulerScheduler|EDMDPMSolverMultistepScheduler|IPNDMScheduler
FlowMatchEulerDiscreteScheduler|FlowMatchHeunDiscreteScheduler|CosineDPMSolverMultistepScheduler|DDIMInverseScheduler
"""


def listed(names: str) -> list[str]:
    """The names of one list."""
    return [name for line in names.strip().splitlines() for name in line.split("|")]


TOOLS = {
    "web UIs": listed(WEB_UI),
    "ComfyUI": listed(COMFY),
    "InvokeAI": listed(INVOKE),
    "Replicate": listed(REPLICATE),
    "Stability": listed(STABILITY),
    "diffusers": listed(DIFFUSERS),
}
SCHEDULES = listed(WEB_UI_SCHEDULES) + listed(COMFY_SCHEDULES)
