{{/*
The pod of one of our processes.
  root       the chart's context
  component  its label
  values     its part of the values: resources, and podLabels, podAnnotations, podSpec, extraEnv and so on if there are any
  command    what it runs
  metrics    whether it serves metrics
  account    its service account; without one no token is mounted
  spec       more of its pod spec (YAML)
  container  more of its container (YAML)
  checksums  annotations (YAML) with what makes another pod of it, instead of all settings
*/}}
{{- define "tessera.worker" -}}
{{- /* A heading with nothing below it is null: Helm takes the empty default away. */}}
{{- $empty := dict }}
{{- range list "podLabels" "podAnnotations" "podSpec" "extraEnv" "extraVolumes" "extraVolumeMounts" }}{{ $_ := set $empty . dict }}{{ end }}
{{- $_ := set . "values" (merge (deepCopy .values) $empty) -}}
metadata:
  labels:
    {{- $labels := include "tessera.labels" . | fromYaml }}
    {{- if and .metrics .root.Values.metrics.enabled }}{{ $_ := set $labels "tessera/metrics" "true" }}{{ end }}
    {{- merge $labels (deepCopy .values.podLabels) | toYaml | nindent 4 }}
  annotations:
    {{- /* Not by `default`, which evaluates both: all settings hold the name of the Job that has checksums of its own. */}}
    {{- $checksums := .checksums }}
    {{- if not $checksums }}{{ $checksums = include "tessera.checksums" .root }}{{ end }}
    {{- merge ($checksums | fromYaml) (deepCopy .values.podAnnotations) | toYaml | nindent 4 }}
spec:
  {{- $spec := include "tessera.worker.spec" . | fromYaml }}
  {{- mergeOverwrite $spec (.spec | default "" | fromYaml) (deepCopy .values.podSpec) | toYaml | nindent 2 }}
  containers:
    - {{ mergeOverwrite (include "tessera.worker.container" . | fromYaml) (.container | default "" | fromYaml) | toYaml | nindent 6 | trim }}
{{- end }}

{{/* Pods begin anew when what they read at their start has changed. Existing Secrets are out of the chart's sight. */}}
{{- define "tessera.checksums" -}}
checksum/settings: {{ include "tessera.settings" . | sha256sum }}
{{- if .Values.valkey.enabled }}
checksum/redis: {{ .Values.valkey.password | sha256sum }}
{{- end }}
{{- end }}

{{- define "tessera.worker.spec" -}}
serviceAccountName: {{ .account | default (include "tessera.podAccount" .root) | quote }}
automountServiceAccountToken: {{ not (empty .account) }}
# A Service called tessera-x in this namespace would become the variable TESSERA_X_PORT: no such setting.
enableServiceLinks: false
securityContext: {{- include "tessera.podSecurity" 10001 | nindent 2 }}
{{- with include "tessera.pullSecrets" .root | fromJsonArray }}
imagePullSecrets: {{- toYaml . | nindent 2 }}
{{- end }}
volumes:
  {{- $own := dict "scratch" (dict "emptyDir" (dict "sizeLimit" "1Gi")) }}
  {{- with .root.Values.redis.tls.caSecret }}{{ $_ := set $own "redis-ca" (dict "secret" (dict "secretName" .)) }}{{ end }}
  {{- with .root.Values.redis.tls.clientSecret }}{{ $_ := set $own "redis-client" (dict "secret" (dict "secretName" .)) }}{{ end }}
  {{- range $name, $source := mergeOverwrite $own (deepCopy .values.extraVolumes) }}
  - {{ merge (dict "name" $name) $source | toYaml | nindent 4 | trim }}
  {{- end }}
{{- end }}

{{- define "tessera.worker.container" -}}
name: {{ .component }}
image: {{ include "tessera.image" (dict "root" .root "image" .root.Values.image "name" "image") }}
imagePullPolicy: {{ .root.Values.image.pullPolicy }}
command: {{ .command | toJson }}
envFrom:
  - configMapRef:
      name: {{ include "tessera.fullname" .root }}-settings
  {{- range include "tessera.secrets" .root | fromJsonArray }}
  - secretRef:
      name: {{ . | quote }}
  {{- end }}
env:
  {{- range $name, $value := mergeOverwrite (dict "HOME" "/tmp") (deepCopy .values.extraEnv) }}
  - {{ merge (dict "name" $name) (kindIs "map" $value | ternary $value (dict "value" $value)) | toYaml | nindent 4 | trim }}
  {{- end }}
{{- if and .metrics .root.Values.metrics.enabled }}
ports:
  - {name: metrics, containerPort: {{ int .root.Values.metrics.port }}, protocol: TCP}
{{- end }}
securityContext: {{- include "tessera.containerSecurity" . | nindent 2 }}
resources: {{- toYaml .values.resources | nindent 2 }}
volumeMounts:
  {{- $mounts := dict "/tmp" (dict "name" "scratch") }}
  {{- if .root.Values.redis.tls.caSecret }}{{ $_ := set $mounts "/etc/tessera/redis-ca" (dict "name" "redis-ca" "readOnly" true) }}{{ end }}
  {{- if .root.Values.redis.tls.clientSecret }}{{ $_ := set $mounts "/etc/tessera/redis-client" (dict "name" "redis-client" "readOnly" true) }}{{ end }}
  {{- range $path, $mount := mergeOverwrite $mounts (deepCopy .values.extraVolumeMounts) }}
  - {{ merge (dict "mountPath" $path) $mount | toYaml | nindent 4 | trim }}
  {{- end }}
{{- end }}

{{/* The `restricted` Pod Security Standard. */}}
{{- define "tessera.podSecurity" -}}
runAsNonRoot: true
runAsUser: {{ . }}
runAsGroup: {{ . }}
fsGroup: {{ . }}
fsGroupChangePolicy: OnRootMismatch
seccompProfile: {type: RuntimeDefault}
{{- end }}

{{- define "tessera.containerSecurity" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities: {drop: [ALL]}
{{- end }}

{{/*
Probes look at the age of files that the worker's own loop touches every 5 s (tasks/process/pulse.py): no Python starts.
An outage of Redis is no fault of the container: it stays alive, and is not ready.
*/}}
{{- define "tessera.probes" -}}
startupProbe:
  exec: {command: [sh, -c, 'test -n "$(find /tmp/{{ . }}.alive -mmin -2)"']}
  periodSeconds: 5
  timeoutSeconds: 20
  failureThreshold: 60
readinessProbe:
  exec: {command: [sh, -c, 'test -n "$(find /tmp/{{ . }}.ready -mmin -1)"']}
  periodSeconds: 15
  timeoutSeconds: 20
livenessProbe:
  exec: {command: [sh, -c, 'test -n "$(find /tmp/{{ . }}.alive -mmin -2)"']}
  periodSeconds: 30
  timeoutSeconds: 20
  failureThreshold: 3
{{- end }}
