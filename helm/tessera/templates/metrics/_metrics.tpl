{{/* Name of the Service, which is the `job` label of everything scraped through it. */}}
{{- define "tessera.metrics" -}}
{{ include "tessera.fullname" . }}-metrics
{{- end }}
