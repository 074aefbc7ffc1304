{{/*
The pod of the Job that fills the claim. Only what concerns the weights is part of it, the lists of
models, LoRAs and embeddings but no other setting, so that it does not run again where nothing of it has changed.
*/}}
{{- define "tessera.warmUp.template" -}}
{{- $hub := .Values.weights.warmUp.hub }}
{{- $command := list "python" "-P" "-m" "k8s.weights" "--source" .Values.weights.warmUp.source "--target" "/models" "--check" }}
{{- $container := dict }}
{{- $env := dict }}
{{- if $hub.repository }}
{{- /* The hub's client is part of the engine's image, which otherwise stays away from the network. */}}
{{- $command = list "python" "-P" "-m" "k8s.hub" "--repository" $hub.repository "--revision" $hub.revision "--target" (printf "/models/%s" $hub.folder) "--check" }}
{{- $_ := set $container "image" (include "tessera.image" (dict "root" . "image" .Values.engineImage "name" "engineImage")) }}
{{- $_ := set $container "imagePullPolicy" .Values.engineImage.pullPolicy }}
{{- $env = dict "HF_HUB_OFFLINE" "0" }}
{{- with $hub.existingSecret }}
{{- $_ := set $env "HF_TOKEN" (dict "valueFrom" (dict "secretKeyRef" (dict "name" . "key" "HF_TOKEN"))) }}
{{- end }}
{{- end }}
{{- $volumes := dict "models" (dict "persistentVolumeClaim" (dict "claimName" (include "tessera.weightsClaim" .))) }}
{{- $mounts := dict "/models" (dict "name" "models") }}
{{- $own := dict "extraEnv" $env "extraVolumes" $volumes "extraVolumeMounts" $mounts }}
{{- $values := mergeOverwrite (omit .Values.weights.warmUp "source" "hub" | deepCopy) $own }}
{{- include "tessera.worker" (dict
  "root" .
  "component" "warm-up"
  "values" $values
  "command" $command
  "container" (merge $container (dict "terminationMessagePolicy" "FallbackToLogsOnError") | toYaml)
  "spec" "restartPolicy: Never"
  "checksums" (printf "checksum/models: %s" (list (.Values.settings).models (.Values.settings).loras (.Values.settings).embeddings | toJson | sha256sum))
) }}
{{- end }}

{{/* Name of that Job, empty if there is none. A Job's template cannot be changed: another template is another Job. */}}
{{- define "tessera.warmUp" -}}
{{- if or .Values.weights.warmUp.source .Values.weights.warmUp.hub.repository -}}
{{ include "tessera.fullname" . }}-warm-up-{{ include "tessera.warmUp.template" . | sha256sum | trunc 8 }}
{{- end }}
{{- end }}
