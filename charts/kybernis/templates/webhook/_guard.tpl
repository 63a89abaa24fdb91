{{/* A policy's head. Called with the root context and the policy's name. The chart's kubeVersion has these policies (1.30). */}}
{{- define "kybernis.guard" -}}
apiVersion: admissionregistration.k8s.io/v1
kind: ValidatingAdmissionPolicy
metadata:
  name: kybernis-{{ .name }}
  labels: {{- include "kybernis.labels" (dict "root" .root "component" "webhook") | nindent 4 }}
{{- end }}

{{/* What puts it in force. */}}
{{- define "kybernis.guardBinding" -}}
apiVersion: admissionregistration.k8s.io/v1
kind: ValidatingAdmissionPolicyBinding
metadata:
  name: kybernis-{{ .name }}
  labels: {{- include "kybernis.labels" (dict "root" .root "component" "webhook") | nindent 4 }}
spec:
  policyName: kybernis-{{ .name }}
  validationActions: [Deny]
{{- end }}

{{/* Namespaces whose pods are never injected, and must never wait for us. */}}
{{- define "kybernis.guardNamespaces" -}}
namespaceSelector:
  matchExpressions:
  - {key: kubernetes.io/metadata.name, operator: NotIn, values: [kube-system, {{ .root.Release.Namespace }}]}
{{- end }}

{{/* As CEL: the names in `webhook/src/names.rs`. */}}
{{- define "kybernis.ourContainers" -}}
['kybernis-proxy', 'kybernis-capture']
{{- end }}
{{- define "kybernis.ourVolumes" -}}
['kybernis-bundle', 'kybernis-state', 'kybernis-spool', 'kybernis-token', 'kybernis-trust', 'kybernis-no-api-token']
{{- end }}

{{/* As CEL: whether a mount `m` is of a volume that only ours mount. The roots are for all, to read, where they belong. */}}
{{- define "kybernis.takesOurVolume" -}}
m.name in {{ include "kybernis.ourVolumes" . }} &&
!(m.name == 'kybernis-bundle' && m.?readOnly.orValue(false) && m.mountPath.matches('^/var/run/kybernis/*$'))
{{- end }}

{{/* Without tag and digest, which do not matter. */}}
{{- define "kybernis.repository" -}}
{{ regexReplaceAll "(:[^/:@]*)?(@.*)?$" . "" }}
{{- end }}
