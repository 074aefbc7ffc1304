"""How much of a pod's and the control plane's time is spent on anything but pictures."""
