{{- define "duomesh.labels" -}}
app.kubernetes.io/name: duomesh-agent
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/part-of: duomesh
{{- end }}
{{- define "duomesh.selector" -}}
app.kubernetes.io/name: duomesh-agent
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end }}
