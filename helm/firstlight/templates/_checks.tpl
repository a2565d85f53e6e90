{{/* What values.schema.json cannot say: values that only make sense together. */}}
{{- define "firstlight.checks" -}}
{{- if include "firstlight.production" . -}}
{{- include "firstlight.checks.production" . -}}
{{- else -}}
{{- include "firstlight.checks.embedded" . -}}
{{- end -}}
{{- $shortest := add .Values.preStopSleepSeconds 35 | int -}}
{{- if lt (int .Values.terminationGracePeriodSeconds) $shortest -}}
{{- fail (printf "terminationGracePeriodSeconds: requests have 30 s to finish after preStopSleepSeconds: set it to %d or more" $shortest) -}}
{{- end -}}
{{- include "firstlight.checks.upstreams" . -}}
{{- end -}}

{{- define "firstlight.checks.production" -}}
{{- if not .Values.postgres.secretName -}}
{{- if not .Values.postgres.url -}}
{{- fail "postgres.secretName: mode: production needs the name of a Secret with the database's URL under postgres.urlKey, or postgres.url" -}}
{{- end -}}
{{- end -}}
{{- if not .Values.s3.bucket -}}
{{- fail "s3.bucket: mode: production needs the name of a bucket" -}}
{{- end -}}
{{- if not .Values.internal.secretName -}}
{{- fail "internal.secretName: mode: production needs the name of a Secret with a random line under internal.key; make one: kubectl create secret generic firstlight-internal --from-literal=secret=$(openssl rand -hex 32)" -}}
{{- end -}}
{{- end -}}

{{- define "firstlight.checks.embedded" -}}
{{- range $value, $set := dict "postgres.url" .Values.postgres.url "postgres.secretName" .Values.postgres.secretName "s3.bucket" .Values.s3.bucket "internal.secretName" .Values.internal.secretName -}}
{{- if $set -}}
{{- fail (printf "%s: mode: embedded does not use it; set mode: production or leave it out" $value) -}}
{{- end -}}
{{- end -}}
{{- end -}}

{{- define "firstlight.checks.upstreams" -}}
{{- $names := list -}}
{{- range .Values.config.upstream -}}
{{- $names = append $names .name -}}
{{- end -}}
{{- range $name, $secrets := .Values.upstreamSecrets -}}
{{- if not (has $name $names) -}}
{{- fail (printf "upstreamSecrets: config.upstream has no entry named %q; add it (with it, only the entries of config.upstream are served)" $name) -}}
{{- end -}}
{{- end -}}
{{- end -}}
