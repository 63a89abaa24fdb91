{{/* The webhook's configuration; its words are those of `webhook/src/settings.rs`. */}}
{{- define "kybernis.injection" -}}
version: {{ .Chart.AppVersion | quote }}
images:
  sidecar: {{ include "kybernis.image" (dict "root" . "image" .Values.image.sidecar) | quote }}
  capture: {{ include "kybernis.image" (dict "root" . "image" .Values.image.capture) | quote }}
  pullPolicy: {{ .Values.image.pullPolicy }}
ledger:
  address: {{ include "kybernis.ledgerAddress" . | quote }}
  serverName: ledger.kybernis
token:
  audience: {{ .Values.sidecar.token.audience | quote }}
  expirationSeconds: {{ int .Values.sidecar.token.expirationSeconds }}
proxyUid: {{ int .Values.sidecar.uid }}
defaultCapture: {{ .Values.sidecar.capture }}
resources: {{- toYaml .Values.sidecar.resources | nindent 2 }}
log: {{ .Values.sidecar.log | quote }}
releaseNamespace: {{ .Release.Namespace | quote }}
extraRoots: {{ ne .Values.sidecar.extraRoots "" }}
adminAddress: {{ .Values.listenAddress | quote }}
{{- end }}
