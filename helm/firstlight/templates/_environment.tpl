{{/* The environment of a component: serve, worker or migrate. */}}
{{- define "firstlight.environment" -}}
{{- if include "firstlight.production" .root }}
{{- include "firstlight.environment.catalog" . }}
{{- if ne .component "migrate" }}
- name: POD_IP
  valueFrom:
    fieldRef:
      fieldPath: status.podIP
- name: FIRSTLIGHT_SERVER_ADVERTISE
  value: {{ ternary "[$(POD_IP)]:5083" "$(POD_IP):5083" .root.Values.ipv6 | quote }}
{{- with .root.Values.s3 }}
{{- if .secretName }}
- name: AWS_ACCESS_KEY_ID
  valueFrom:
    secretKeyRef:
      name: {{ .secretName }}
      key: {{ .accessKeyIdKey }}
- name: AWS_SECRET_ACCESS_KEY
  valueFrom:
    secretKeyRef:
      name: {{ .secretName }}
      key: {{ .secretAccessKeyKey }}
{{- end }}
{{- end }}
{{- end }}
{{- end }}
{{- with .root.Values.extraEnv }}
{{ toYaml . }}
{{- end }}
{{- end -}}

{{- define "firstlight.environment.catalog" -}}
{{- $postgres := .root.Values.postgres -}}
{{- $migrate := .root.Values.migrate -}}
{{- if and (eq .component "migrate") $migrate.secretName }}
- name: FIRSTLIGHT_CATALOG_URL
  valueFrom:
    secretKeyRef:
      name: {{ $migrate.secretName }}
      key: {{ $migrate.urlKey }}
{{- else if $postgres.url }}
- name: FIRSTLIGHT_CATALOG_URL
  value: {{ $postgres.url | quote }}
{{- if $postgres.secretName }}
- name: PGPASSWORD
  valueFrom:
    secretKeyRef:
      name: {{ $postgres.secretName }}
      key: {{ $postgres.passwordKey }}
{{- end }}
{{- else }}
- name: FIRSTLIGHT_CATALOG_URL
  valueFrom:
    secretKeyRef:
      name: {{ $postgres.secretName }}
      key: {{ $postgres.urlKey }}
{{- end }}
{{- end -}}
