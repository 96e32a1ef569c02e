{{- /* Names and labels, and what depends on tls.enabled. */ -}}
{{- define "apus.name" -}}
{{- .Release.Name | trunc 40 | trimSuffix "-" -}}
{{- end }}

{{- define "apus.selector" -}}
app.kubernetes.io/name: apus
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end }}

{{- define "apus.labels" -}}
{{ include "apus.selector" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version }}
{{- end }}

{{- /* Name and port of each listener, as JSON. */ -}}
{{- define "apus.ports" -}}
{{- if .Values.tls.enabled -}}
{"mqtts": 8883, "amqps": 5671, "https": 8443}
{{- else -}}
{"mqtt": 1883, "amqp": 5672, "http": 8080}
{{- end -}}
{{- end }}
