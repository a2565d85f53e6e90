{{/* Keys and values as TOML. A string, number, boolean or list of strings in JSON is the same in TOML. */}}
{{- define "firstlight.toml" -}}
{{- range $key, $value := . }}
{{- if not (kindIs "invalid" $value) }}
{{ $key }} = {{ toRawJson $value }}
{{- end }}
{{- end }}
{{- end -}}

{{/* The address of a listener. */}}
{{- define "firstlight.listen" -}}
{{- printf "%s:%d" (ternary "[::]" "0.0.0.0" .root.Values.ipv6) .port -}}
{{- end -}}

{{/* A table, if it has keys. */}}
{{- define "firstlight.table" -}}
{{- with include "firstlight.toml" .keys }}
{{ $.header }}{{ . }}
{{ end }}
{{- end -}}

{{/* The configuration file of a component: serve or worker. Secrets come from files and the environment. */}}
{{- define "firstlight.config" -}}
{{- $config := .root.Values.config -}}
{{- $server := merge (include "firstlight.config.server" . | fromYaml) $config.server -}}
{{- $storage := merge (include "firstlight.config.storage" . | fromYaml) $config.storage -}}
# Made by the chart {{ .root.Chart.Name }} for `firstlight {{ .component }}`.
{{ include "firstlight.table" (dict "header" "[server]" "keys" $server) }}
{{- include "firstlight.table" (dict "header" "[storage]" "keys" $storage) }}
{{- include "firstlight.table" (dict "header" "[convert]" "keys" $config.convert) }}
{{- include "firstlight.table" (dict "header" "[cache]" "keys" $config.cache) }}
{{- range $config.upstream }}
{{- $upstream := merge (include "firstlight.config.upstream" (dict "root" $.root "name" .name) | fromYaml) . }}
{{- include "firstlight.table" (dict "header" "[[upstream]]" "keys" $upstream) }}
{{- end }}
{{- end -}}

{{- define "firstlight.config.server" -}}
{{- $values := .root.Values -}}
listen: {{ include "firstlight.listen" (dict "root" .root "port" 5080) | quote }}
admin_listen: {{ include "firstlight.listen" (dict "root" .root "port" 5081) | quote }}
{{- if eq .component "serve" }}
{{- if $values.mirror.enabled }}
mirror_listen: {{ include "firstlight.listen" (dict "root" .root "port" 5082) | quote }}
{{- end }}
{{- if $values.tls.secretName }}
tls_cert: /etc/firstlight/tls/tls.crt
tls_key: /etc/firstlight/tls/tls.key
{{- end }}
{{- if $values.htpasswd.secretName }}
htpasswd: /etc/firstlight/htpasswd/htpasswd
{{- end }}
{{- end }}
{{- if include "firstlight.production" .root }}
internal_listen: {{ include "firstlight.listen" (dict "root" .root "port" 5083) | quote }}
internal_secret_file: /etc/firstlight/internal/secret
{{- end }}
{{- end -}}

{{- define "firstlight.config.storage" -}}
path: /var/lib/firstlight
{{- if include "firstlight.production" .root }}
{{- with .root.Values.s3 }}
backend: s3
bucket: {{ .bucket | quote }}
{{- with .prefix }}
prefix: {{ . | quote }}
{{- end }}
{{- with .endpoint }}
endpoint: {{ . | quote }}
{{- end }}
{{- with .region }}
region: {{ . | quote }}
{{- end }}
{{- if not (kindIs "invalid" .pathStyle) }}
path_style: {{ .pathStyle }}
{{- end }}
{{- end }}
{{- end }}
{{- end -}}

{{- define "firstlight.config.upstream" -}}
{{- with get .root.Values.upstreamSecrets .name }}
{{- if .password }}
password_file: /etc/firstlight/upstreams/{{ $.name }}/password
{{- end }}
{{- if .dockerConfig }}
docker_config: /etc/firstlight/upstreams/{{ $.name }}/config.json
{{- end }}
{{- if .ca }}
ca_file: /etc/firstlight/upstreams/{{ $.name }}/ca.crt
{{- end }}
{{- end }}
{{- end -}}
