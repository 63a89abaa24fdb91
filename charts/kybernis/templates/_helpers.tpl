{{/* What every object of the release carries (the labels that Kubernetes recommends). Called with the root context and a component. */}}
{{- define "kybernis.labels" -}}
{{ include "kybernis.selector" . }}
app.kubernetes.io/part-of: kybernis
app.kubernetes.io/version: {{ .root.Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .root.Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .root.Chart.Name .root.Chart.Version | replace "+" "_" }}
{{- end }}

{{/* What tells a component's pods from all others; never changes. */}}
{{- define "kybernis.selector" -}}
app.kubernetes.io/name: kybernis
app.kubernetes.io/instance: {{ .root.Release.Name }}
app.kubernetes.io/component: {{ .component }}
{{- end }}

{{/* An image: registry, repository, and a digest or a tag. */}}
{{- define "kybernis.image" -}}
{{- $repository := printf "%s/%s" .root.Values.image.registry .image.repository | trimPrefix "/" }}
{{- if .image.digest }}{{ printf "%s@%s" $repository .image.digest }}{{ else }}{{ printf "%s:%s" $repository (.image.tag | default .root.Values.image.tag | default .root.Chart.AppVersion) }}{{ end }}
{{- end }}

{{/* Pods of ours hold to Pod Security's level `restricted`. */}}
{{- define "kybernis.podSecurity" -}}
runAsNonRoot: true
runAsUser: 65532
runAsGroup: 65532
fsGroup: 65532
# Once: what was made since is its own, and private.
fsGroupChangePolicy: OnRootMismatch
seccompProfile: {type: RuntimeDefault}
{{- end }}
{{- define "kybernis.containerSecurity" -}}
allowPrivilegeEscalation: false
capabilities: {drop: [ALL]}
readOnlyRootFilesystem: true
{{- end }}

{{/* Where sidecars and the operator find the ledger. */}}
{{- define "kybernis.ledgerAddress" -}}
https://kybernis-ledger.{{ .Release.Namespace }}.svc:7443
{{- end }}

{{/* Where a component's pods may run, and with what. */}}
{{- define "kybernis.scheduling" -}}
{{- with .root.Values.image.pullSecrets }}
imagePullSecrets: {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .values.priorityClassName }}
priorityClassName: {{ . }}
{{- end }}
{{- with .values.nodeSelector }}
nodeSelector: {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .values.tolerations }}
tolerations: {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .values.affinity }}
affinity: {{- toYaml . | nindent 2 }}
{{- end }}
{{- end }}
