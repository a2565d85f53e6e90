{{/* The volumes of serve and worker, but for the data. */}}
{{- define "firstlight.volumes" -}}
- name: config
  configMap:
    name: {{ include "firstlight.fullname" .root }}
    items:
      - key: {{ .component }}.toml
        path: firstlight.toml
{{- if eq .component "serve" }}
{{- with .root.Values.tls.secretName }}
- name: tls
  secret:
    secretName: {{ . }}
    items:
      - key: tls.crt
        path: tls.crt
      - key: tls.key
        path: tls.key
{{- end }}
{{- if .root.Values.htpasswd.secretName }}
- name: htpasswd
  secret:
    secretName: {{ .root.Values.htpasswd.secretName }}
    items:
      - key: {{ .root.Values.htpasswd.key }}
        path: htpasswd
{{- end }}
{{- end }}
{{- if include "firstlight.production" .root }}
- name: internal
  secret:
    secretName: {{ .root.Values.internal.secretName }}
    items:
      - key: {{ .root.Values.internal.key }}
        path: secret
{{- end }}
{{- if .root.Values.upstreamSecrets }}
- name: upstreams
  projected:
    sources:
      {{- range $name, $secrets := .root.Values.upstreamSecrets }}
      {{- with $secrets.password }}
      - secret:
          name: {{ .secretName }}
          items:
            - key: {{ .key | default "password" }}
              path: {{ $name }}/password
      {{- end }}
      {{- with $secrets.dockerConfig }}
      - secret:
          name: {{ .secretName }}
          items:
            - key: {{ .key | default ".dockerconfigjson" }}
              path: {{ $name }}/config.json
      {{- end }}
      {{- with $secrets.ca }}
      - secret:
          name: {{ .secretName }}
          items:
            - key: {{ .key | default "ca.crt" }}
              path: {{ $name }}/ca.crt
      {{- end }}
      {{- end }}
{{- end }}
{{- with .root.Values.extraVolumes }}
{{ toYaml . }}
{{- end }}
{{- end -}}

{{/* Where they are in the container. */}}
{{- define "firstlight.volumeMounts" -}}
- name: data
  mountPath: /var/lib/firstlight
- name: config
  mountPath: /etc/firstlight/config
  readOnly: true
{{- if eq .component "serve" }}
{{- if .root.Values.tls.secretName }}
- name: tls
  mountPath: /etc/firstlight/tls
  readOnly: true
{{- end }}
{{- if .root.Values.htpasswd.secretName }}
- name: htpasswd
  mountPath: /etc/firstlight/htpasswd
  readOnly: true
{{- end }}
{{- end }}
{{- if include "firstlight.production" .root }}
- name: internal
  mountPath: /etc/firstlight/internal
  readOnly: true
{{- end }}
{{- if .root.Values.upstreamSecrets }}
- name: upstreams
  mountPath: /etc/firstlight/upstreams
  readOnly: true
{{- end }}
{{- with .root.Values.extraVolumeMounts }}
{{ toYaml . }}
{{- end }}
{{- end -}}

{{/* The data of a pod of mode: production: what may be lost with it. */}}
{{- define "firstlight.spool" -}}
- name: data
{{- if eq .root.Values.spool.type "emptyDir" }}
  emptyDir:
    sizeLimit: {{ .root.Values.spool.size }}
{{- else }}
  ephemeral:
    volumeClaimTemplate:
      spec:
        accessModes: [ReadWriteOnce]
        {{- with .root.Values.spool.storageClass }}
        storageClassName: {{ . }}
        {{- end }}
        resources:
          requests:
            storage: {{ .root.Values.spool.size }}
{{- end }}
{{- end -}}
