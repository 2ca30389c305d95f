{{- /*
Names and labels. A "thing" is a dict that every template here is given: `root` (the chart's `.`),
`name` (what it is called after the release), `component` (what it is), and where there are several
of that component `which`.
*/ -}}

{{- define "agent-pipelines.name" -}}
{{ .root.Release.Name }}-{{ .name }}
{{- end }}

{{- /* What never changes while it is installed: Deployments, Services and policies select by it. */ -}}
{{- define "agent-pipelines.selector" -}}
app.kubernetes.io/name: {{ .root.Chart.Name }}
app.kubernetes.io/instance: {{ .root.Release.Name }}
app.kubernetes.io/component: {{ .component }}
{{- with .which }}
agent-pipelines/{{ $.component }}: {{ . }}
{{- end }}
{{- end }}

{{- define "agent-pipelines.labels" -}}
{{ include "agent-pipelines.selector" . }}
app.kubernetes.io/version: {{ .root.Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .root.Release.Service }}
helm.sh/chart: {{ .root.Chart.Name }}-{{ .root.Chart.Version }}
{{- end }}

{{- define "agent-pipelines.metadata" -}}
name: {{ include "agent-pipelines.name" . }}
labels:
  {{- include "agent-pipelines.labels" . | nindent 2 }}
{{- end }}

{{- /* Our image: `variant` is cpu, the default, or gpu. A digest wins over the tag. */ -}}
{{- define "agent-pipelines.image" -}}
{{- $image := .root.Values.image }}
{{- $variant := .variant | default "cpu" }}
{{- $digest := index $image.digests $variant }}
{{- if $digest -}}
{{ $image.repository }}@{{ $digest }}
{{- else -}}
{{ $image.repository }}:{{ $image.tag | default .root.Chart.AppVersion }}-{{ $variant }}
{{- end }}
{{- end }}

{{- /* The Secret with a thing's certificate, made by cert-manager or by hand. */ -}}
{{- define "agent-pipelines.tls" -}}
{{ include "agent-pipelines.name" . }}-tls
{{- end }}

{{- /* The names under which a Service is reached, with commas between. */ -}}
{{- define "agent-pipelines.hosts" -}}
{{- $name := include "agent-pipelines.name" . }}
{{- $namespace := .root.Release.Namespace -}}
{{ $name }},{{ $name }}.{{ $namespace }},{{ $name }}.{{ $namespace }}.svc,{{ $name }}.{{ $namespace }}.svc.{{ .root.Values.clusterDomain }}
{{- end }}
