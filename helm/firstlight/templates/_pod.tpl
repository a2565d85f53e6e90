{{/* The labels of a component's pods. */}}
{{- define "firstlight.pod.labels" -}}
{{- $own := dict "app.kubernetes.io/component" .component -}}
{{- $own = include "firstlight.labels" .root | fromYaml | merge $own -}}
{{- $pod := get .root.Values .component -}}
{{- toYaml (merge $own $pod.podLabels .root.Values.podLabels) -}}
{{- end -}}

{{/* The metadata of a component's pods: serve or worker. A changed configuration makes new pods. */}}
{{- define "firstlight.pod.metadata" -}}
{{- $pod := get .root.Values .component -}}
{{- $own := dict "checksum/config" (include "firstlight.config" . | sha256sum) -}}
labels:
  {{- include "firstlight.pod.labels" . | nindent 2 }}
annotations:
  {{- toYaml (merge $own $pod.podAnnotations .root.Values.podAnnotations) | nindent 2 }}
{{- end -}}

{{/* What the pods of all components have in common. */}}
{{- define "firstlight.pod.common" -}}
automountServiceAccountToken: false
# The variables of the namespace's services would only be noise.
enableServiceLinks: false
{{- with .Values.imagePullSecrets }}
imagePullSecrets:
  {{- toYaml . | nindent 2 }}
{{- end }}
securityContext:
  {{- toYaml .Values.podSecurityContext | nindent 2 }}
{{- end -}}

{{/* Where the pods of a component run. */}}
{{- define "firstlight.pod.place" -}}
{{- $pod := get .root.Values .component -}}
{{- with $pod.nodeSelector }}
nodeSelector:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with $pod.tolerations }}
tolerations:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with $pod.affinity }}
affinity:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with $pod.priorityClassName }}
priorityClassName: {{ . }}
{{- end }}
{{- if and .root.Values.topologySpread.enabled (include "firstlight.production" .root) }}
topologySpreadConstraints:
  {{- range .root.Values.topologySpread.topologyKeys }}
  - topologyKey: {{ . }}
    maxSkew: {{ $.root.Values.topologySpread.maxSkew }}
    whenUnsatisfiable: {{ $.root.Values.topologySpread.whenUnsatisfiable }}
    # The old and the new pods of an upgrade are spread each for themselves.
    matchLabelKeys: [pod-template-hash]
    labelSelector:
      matchLabels:
        {{- include "firstlight.selector" $.root | nindent 8 }}
        app.kubernetes.io/component: {{ $.component }}
  {{- end }}
{{- end }}
{{- end -}}

{{/* The pod of a component: serve or worker. Volumes are given apart. */}}
{{- define "firstlight.pod" -}}
{{- $pod := get .root.Values .component -}}
{{ include "firstlight.pod.common" .root }}
serviceAccountName: {{ include "firstlight.serviceAccountName" .root }}
terminationGracePeriodSeconds: {{ .root.Values.terminationGracePeriodSeconds }}
containers:
  - name: firstlight
    image: {{ include "firstlight.image" .root | quote }}
    imagePullPolicy: {{ .root.Values.image.pullPolicy }}
    args:
      - {{ .component }}
      - --config=/etc/firstlight/config/firstlight.toml
      - --log-format={{ .root.Values.logFormat }}
      - --log={{ .root.Values.log }}
    {{- with include "firstlight.environment" . }}
    env:
      {{- . | trim | nindent 6 }}
    {{- end }}
    ports:
      {{- include "firstlight.pod.ports" . | trim | nindent 6 }}
    {{- include "firstlight.pod.probes" . | nindent 4 }}
    lifecycle:
      preStop:
        sleep:
          seconds: {{ .root.Values.preStopSleepSeconds }}
    {{- with $pod.resources }}
    resources:
      {{- toYaml . | nindent 6 }}
    {{- end }}
    securityContext:
      {{- toYaml .root.Values.securityContext | nindent 6 }}
    volumeMounts:
      {{- include "firstlight.volumeMounts" . | nindent 6 }}
{{- include "firstlight.pod.place" . }}
{{- end -}}

{{- define "firstlight.pod.ports" -}}
{{- if eq .component "serve" }}
- name: registry
  containerPort: 5080
{{- if .root.Values.mirror.enabled }}
- name: mirror
  containerPort: 5082
{{- end }}
{{- end }}
- name: admin
  containerPort: 5081
{{- if include "firstlight.production" .root }}
- name: internal
  containerPort: 5083
{{- end }}
{{- end -}}

{{- define "firstlight.pod.probes" -}}
startupProbe:
  httpGet:
    path: /healthz
    port: admin
  periodSeconds: 2
  failureThreshold: 60
livenessProbe:
  httpGet:
    path: /healthz
    port: admin
  periodSeconds: 10
  timeoutSeconds: 5
  failureThreshold: 6
readinessProbe:
  httpGet:
    path: /readyz
    port: admin
  periodSeconds: 5
  timeoutSeconds: 5
{{- end -}}
