{{/* At most 40 characters of a name, without dots; one that is changed ends in a hash, so that two of them stay two. */}}
{{- define "tessera.short" -}}
{{- if or (gt (len .) 40) (contains "." .) }}{{ replace "." "-" . | trunc 31 | trimSuffix "-" }}-{{ sha256sum . | trunc 8 }}{{ else }}{{ . }}{{ end }}
{{- end }}

{{- define "tessera.name" -}}
{{ include "tessera.short" (default .Chart.Name .Values.nameOverride) }}
{{- end }}

{{/* The beginning of every object's name: the release's, and the chart's unless the release's holds it. */}}
{{- define "tessera.fullname" -}}
{{- $name := include "tessera.name" . }}
{{- $composed := contains $name .Release.Name | ternary .Release.Name (printf "%s-%s" .Release.Name $name) }}
{{- include "tessera.short" (default $composed .Values.fullnameOverride) }}
{{- end }}

{{/* What tells this deployment from all others in Redis, in the bucket and among the cluster's Jobs. Two dashes: a-b of
namespace and c of release are not a and b-c. A dependency under an alias is one of several of its release. */}}
{{- define "tessera.deployment" -}}
{{- $alias := or .Chart.IsRoot (eq .Chart.Name "tessera") | ternary "" (printf "--%s" .Chart.Name) }}
{{- default (include "tessera.short" (printf "%s--%s%s" .Release.Namespace .Release.Name $alias)) .Values.deployment }}
{{- end }}

{{- define "tessera.workerAccount" -}}
{{- with .Values.serviceAccount }}{{ .name | default (.create | ternary (printf "%s-worker" (include "tessera.fullname" $)) "default") }}{{ end }}
{{- end }}

{{- define "tessera.podAccount" -}}
{{- with .Values.podServiceAccount }}{{ .name | default (.create | ternary (printf "%s-pod" (include "tessera.fullname" $)) "default") }}{{ end }}
{{- end }}

{{- define "tessera.weightsClaim" -}}
{{ include "tessera.fullname" . }}-weights
{{- end }}

{{/* Name of the Secret that holds TESSERA_REDIS_URL; empty if the URL is no secret. */}}
{{- define "tessera.redisSecret" -}}
{{ .Values.valkey.enabled | ternary (printf "%s-redis" (include "tessera.fullname" .)) (.Values.redis.existingSecret | default "") }}
{{- end }}

{{/* Labels that select a component's pods. Render pods are made by the program, with labels of their own. */}}
{{- define "tessera.selector" -}}
app.kubernetes.io/name: {{ include "tessera.name" .root | quote }}
app.kubernetes.io/instance: {{ .root.Release.Name | quote }}
app.kubernetes.io/component: {{ .component }}
{{- end }}

{{- define "tessera.labels" -}}
{{ include "tessera.selector" . }}
app.kubernetes.io/version: {{ .root.Chart.AppVersion | quote }}
app.kubernetes.io/part-of: tessera
app.kubernetes.io/managed-by: {{ .root.Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .root.Chart.Name .root.Chart.Version | replace "+" "_" }}
{{- end }}

{{/* Secrets to pull images with, as JSON and as Kubernetes lists them. A chart above this one may say names or such objects. */}}
{{- define "tessera.pullSecrets" -}}
{{- $secrets := list }}
{{- range .Values.global.imagePullSecrets }}{{ $secrets = append $secrets (kindIs "string" . | ternary (dict "name" .) .) }}{{ end }}
{{- toJson $secrets }}
{{- end }}

{{/* An image reference: registry, repository, and digest or tag. `image` of the values, `name` for a message. */}}
{{- define "tessera.image" -}}
{{- $registry := .root.Values.global.imageRegistry | default .image.registry }}
{{- if not $registry }}
{{- fail (printf "%s.registry: none found; push the images that the Dockerfile builds to a registry of yours, and name it here or in global.imageRegistry" .name) }}
{{- end }}
{{- $version := empty .image.digest | ternary (printf ":%s" (.image.tag | default .root.Chart.AppVersion)) (printf "@%s" .image.digest) }}
{{- printf "%s/%s%s" $registry .image.repository $version }}
{{- end }}
