{{/* What every object of the release carries: the labels that Kubernetes recommends, and those that people want. Called with the root
context and a component, and with labels of this object's own. */}}
{{- define "kybernis.labels" -}}
{{ include "kybernis.selector" . }}
app.kubernetes.io/part-of: kybernis
app.kubernetes.io/version: {{ .root.Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .root.Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .root.Chart.Name .root.Chart.Version | replace "+" "_" }}
{{- with mergeOverwrite (dict) .root.Values.commonLabels (.own | default dict) }}
{{ toYaml . }}
{{- end }}
{{- end }}

{{/* Of monitors and rules: by theirs, each Prometheus picks its own. */}}
{{- define "kybernis.monitorLabels" -}}
{{ include "kybernis.labels" (dict "root" . "component" "monitoring" "own" .Values.monitoring.labels) }}
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

{{/* Where a port listens. Called with the root context and the port. */}}
{{- define "kybernis.listen" -}}
{{ printf "%s:%d" (eq .root.Values.listenAddress "::" | ternary "[::]" .root.Values.listenAddress) .port }}
{{- end }}

{{/* Where a component's pods may run, and with what. Called with the root context, the component and its values. */}}
{{- define "kybernis.scheduling" -}}
# Variables for each Service of the namespace would begin as our settings do.
enableServiceLinks: false
{{- with .root.Values.image.pullSecrets }}
imagePullSecrets: {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .values.priorityClassName }}
priorityClassName: {{ . | quote }}
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
{{- if .values.topologySpreadConstraints }}
topologySpreadConstraints: {{- toYaml .values.topologySpreadConstraints | nindent 2 }}
{{- else if gt (int .values.replicas) 1 }}
# A node or a zone that is full or lost keeps none of them from starting, and during a rollout the old pods do not count.
topologySpreadConstraints:
{{- range list "kubernetes.io/hostname" "topology.kubernetes.io/zone" }}
- topologyKey: {{ . }}
  maxSkew: 1
  whenUnsatisfiable: ScheduleAnyway
  labelSelector:
    matchLabels: {{- include "kybernis.selector" $ | nindent 6 }}
  matchLabelKeys: [pod-template-hash]
{{- end }}
{{- end }}
{{- end }}

{{/* Where several run, a drain takes one at a time. */}}
{{- define "kybernis.disruption" -}}
{{- if gt (int .values.replicas) 1 }}
apiVersion: policy/v1
kind: PodDisruptionBudget
metadata:
  name: kybernis-{{ .component }}
  namespace: {{ .root.Release.Namespace }}
  labels: {{- include "kybernis.labels" . | nindent 4 }}
spec:
  maxUnavailable: 1
  selector:
    matchLabels: {{- include "kybernis.selector" . | nindent 6 }}
{{- end }}
{{- end }}

{{/* What every NetworkPolicy of ours has. What may come in stands in each; more than names and the API server, too. */}}
{{- define "kybernis.networkPolicy" -}}
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata:
  name: kybernis-{{ .component }}
  namespace: {{ .root.Release.Namespace }}
  labels: {{- include "kybernis.labels" . | nindent 4 }}
{{- end }}
{{- define "kybernis.networkPolicyEgress" -}}
# Names: whoever answers may be a pod, or the node itself.
- ports:
  - {protocol: UDP, port: 53}
  - {protocol: TCP, port: 53}
# The API server, which no selector knows.
- ports:
  {{- range .root.Values.networkPolicy.apiServerPorts }}
  - {protocol: TCP, port: {{ int . }}}
  {{- end }}
{{- end }}
{{- define "kybernis.networkPolicyAdmin" -}}
# Scrapers. The kubelet's probes come from the pod's own node, which is never kept out.
- from: [{namespaceSelector: {}}]
  ports: [{protocol: TCP, port: admin}]
{{- end }}
