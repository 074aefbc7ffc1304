{{- define "tessera.workersSelector" -}}
matchLabels:
  app.kubernetes.io/name: {{ include "tessera.name" . | quote }}
  app.kubernetes.io/instance: {{ .Release.Name | quote }}
matchExpressions:
  - key: app.kubernetes.io/component
    operator: In
    values: [render-worker, controller, beat, api, warm-up, test]
{{- end }}

{{- define "tessera.podsSelector" -}}
matchLabels:
  tessera/deployment: {{ include "tessera.deployment" . | quote }}
{{- end }}

{{/* Nobody connects to our pods, but to the port of the metrics if there are any. Where they may connect to is restricted only if somebody says to what. */}}
{{- define "tessera.traffic" -}}
policyTypes: [Ingress{{ if .root.Values.networkPolicy.egress }}, Egress{{ end }}]
{{- if and .metrics .root.Values.metrics.enabled }}
ingress:
  - ports:
      - {port: metrics, protocol: TCP}
{{- else }}
ingress: []
{{- end }}
{{- with .root.Values.networkPolicy.egress }}
egress:
  - ports:
      - {port: 53, protocol: UDP}
      - {port: 53, protocol: TCP}
  {{- if $.root.Values.valkey.enabled }}
  - to:
      - podSelector:
          matchLabels:
            {{- include "tessera.selector" (dict "root" $.root "component" "valkey") | nindent 12 }}
    ports:
      - {port: 6379, protocol: TCP}
  {{- end }}
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- end }}
