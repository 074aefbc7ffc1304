{{/* What the schema cannot say, in one place. */}}
{{- define "tessera.check" -}}
{{- if and .Chart.IsRoot (hasKey .Values "enabled") }}
{{- fail "enabled: found; it is read by a chart that has this one as a dependency, and nothing here is switched by it" }}
{{- end }}
{{- $redis := list }}
{{- if .Values.redis.existingSecret }}{{ $redis = append $redis "redis.existingSecret" }}{{ end }}
{{- if .Values.redis.url }}{{ $redis = append $redis "redis.url" }}{{ end }}
{{- if .Values.valkey.enabled }}{{ $redis = append $redis "valkey.enabled" }}{{ end }}
{{- if ne (len $redis) 1 }}
{{- fail (printf "redis: %s found; exactly one of redis.existingSecret, redis.url and valkey.enabled wanted" (join " and " $redis | default "none")) }}
{{- end }}
{{- if and .Values.valkey.enabled (or .Values.redis.tls.caSecret .Values.redis.tls.clientSecret) }}
{{- fail "redis.tls: found with valkey.enabled, whose Valkey speaks without TLS" }}
{{- end }}
{{- $weights := list }}
{{- if .Values.weights.claim.create }}{{ $weights = append $weights "weights.claim.create" }}{{ end }}
{{- range list "models_claim" "models_image" "models_cache" }}
{{- if index ($.Values.pod | default dict) . }}{{ $weights = append $weights (printf "pod.%s" .) }}{{ end }}
{{- end }}
{{- if gt (len $weights) 1 }}
{{- fail (printf "weights: %s found; one of them wanted, or none if the image holds the weights" (join " and " $weights)) }}
{{- end }}
{{- range list "serviceMonitor" "rules" "dashboard" }}
{{- if and (index $.Values.metrics .).enabled (not $.Values.metrics.enabled) }}
{{- fail (printf "metrics.%s.enabled: found without metrics.enabled, which makes what it shows" .) }}
{{- end }}
{{- end }}
{{- with .Values.weights.warmUp }}
{{- if and .source (not $.Values.weights.claim.create) }}
{{- fail "weights.warmUp.source: found without weights.claim.create; the Job fills the chart's claim" }}
{{- end }}
{{- if and .hub.repository (not $.Values.weights.claim.create) }}
{{- fail "weights.warmUp.hub: found without weights.claim.create; the Job fills the chart's claim" }}
{{- end }}
{{- if and .hub.repository .source }}
{{- fail "weights.warmUp: source and hub.repository found; one of them wanted" }}
{{- end }}
{{- if and .hub.repository (not (and .hub.revision .hub.folder)) }}
{{- fail "weights.warmUp.hub: revision and folder wanted beside repository; a branch may change under a running batch" }}
{{- end }}
{{- end }}
{{- end }}

{{/* Secrets whose keys become variables of workers and render pods, as JSON. */}}
{{- define "tessera.secrets" -}}
{{ list (include "tessera.redisSecret" .) .Values.s3.existingSecret | uniq | compact | toJson }}
{{- end }}

{{/* Those of render pods, who may have a Redis user of their own. */}}
{{- define "tessera.podSecrets" -}}
{{ list (.Values.redis.podExistingSecret | default (include "tessera.redisSecret" .)) .Values.s3.existingSecret | uniq | compact | toJson }}
{{- end }}

{{/* `pod` of the values, and what follows from the others, as JSON. */}}
{{- define "tessera.pod" -}}
{{- $pullSecrets := list }}
{{- range include "tessera.pullSecrets" . | fromJsonArray }}{{ $pullSecrets = append $pullSecrets .name }}{{ end }}
{{- $pod := dict
  "namespace" .Release.Namespace
  "service_account" (include "tessera.podAccount" .)
  "image_pull_secrets" $pullSecrets
  "image_pull_policy" .Values.engineImage.pullPolicy
  "env_from_secrets" (include "tessera.podSecrets" . | fromJsonArray) }}
{{- if .Values.weights.claim.create }}{{ $_ := set $pod "models_claim" (include "tessera.weightsClaim" .) }}{{ end }}
{{- with include "tessera.warmUp" . }}{{ $_ := set $pod "models_job" . }}{{ end }}
{{- with .Values.redis.tls.caSecret }}{{ $_ := set $pod "redis_ca_secret" . }}{{ end }}
{{- with .Values.redis.tls.clientSecret }}{{ $_ := set $pod "redis_client_secret" . }}{{ end }}
{{- mergeOverwrite $pod (.Values.pod | default dict) | toJson }}
{{- end }}

{{/*
The settings of pipeline/deployment/settings.py as environment variables. Numbers go through JSON: Helm reads all of them as
floats, and would print a million as 1e+06.
*/}}
{{- define "tessera.settings" -}}
{{- include "tessera.check" . -}}
{{- $own := dict
  "redis_prefix" (include "tessera.deployment" .)
  "redis_url" .Values.redis.url
  "s3_endpoint" .Values.s3.endpoint
  "s3_region" .Values.s3.region
  "s3_bucket" .Values.s3.bucket
  "s3_prefix" (.Values.s3.prefix | default (include "tessera.deployment" .))
  "launcher" "kubernetes"
  "image" (include "tessera.image" (dict "root" . "image" .Values.engineImage "name" "engineImage"))
  "pod" (include "tessera.pod" .)
  "schedules" (empty .Values.schedules | ternary "" (toJson .Values.schedules)) }}
{{- if .Values.metrics.enabled }}{{ $_ := set $own "metrics_port" (int .Values.metrics.port) }}{{ end }}
{{- if .Values.redis.tls.caSecret }}{{ $_ := set $own "redis_ca" "/etc/tessera/redis-ca/ca.crt" }}{{ end }}
{{- if .Values.redis.tls.clientSecret }}
{{- $_ := set $own "redis_cert" "/etc/tessera/redis-client/tls.crt" }}
{{- $_ := set $own "redis_key" "/etc/tessera/redis-client/tls.key" }}
{{- end }}
{{- range $name, $value := mergeOverwrite $own (.Values.settings | default dict) }}
{{- if not (has (toJson $value) (list "null" "\"\"")) -}}
TESSERA_{{ upper $name }}: {{ kindIs "string" $value | ternary $value (toJson $value) | quote }}
{{ end }}
{{- end }}
{{- end }}
