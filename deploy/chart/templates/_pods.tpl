{{- /*
What pods have in common. All of them pass the `restricted` Pod Security Standard.
*/ -}}

{{- define "agent-pipelines.podSecurity" -}}
runAsNonRoot: true
runAsUser: 10001
runAsGroup: 10001
fsGroup: 10001
fsGroupChangePolicy: OnRootMismatch
seccompProfile: {type: RuntimeDefault}
{{- end }}

{{- define "agent-pipelines.containerSecurity" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
runAsNonRoot: true
capabilities: {drop: [ALL]}
seccompProfile: {type: RuntimeDefault}
{{- end }}

{{- /* A new pod is ready before an old one goes. */ -}}
{{- define "agent-pipelines.rolling" -}}
type: RollingUpdate
rollingUpdate: {maxUnavailable: 0, maxSurge: 1}
{{- end }}

{{- /* Replicas on different nodes and zones where there are some. */ -}}
{{- define "agent-pipelines.spread" -}}
{{- range list "kubernetes.io/hostname" "topology.kubernetes.io/zone" }}
- maxSkew: 1
  topologyKey: {{ . }}
  whenUnsatisfiable: ScheduleAnyway
  labelSelector:
    matchLabels:
      {{- include "agent-pipelines.selector" $ | nindent 6 }}
{{- end }}
{{- end }}

{{- /* What a kubelet asks, on the port `probes`. `start`: seconds until it must have started. */ -}}
{{- define "agent-pipelines.probes" -}}
startupProbe:
  httpGet: {path: /health, port: probes}
  periodSeconds: 5
  failureThreshold: {{ div (.start | default 180) 5 }}
livenessProbe:
  httpGet: {path: /health, port: probes}
  periodSeconds: 10
  timeoutSeconds: 5
  failureThreshold: 6
readinessProbe:
  httpGet: {path: {{ .ready | default "/ready" }}, port: probes}
  periodSeconds: 5
  timeoutSeconds: 6
  failureThreshold: 2
{{- end }}

{{- /* For a Prometheus that goes by annotations; with the operator there are ServiceMonitors. */ -}}
{{- define "agent-pipelines.scraped" -}}
prometheus.io/scrape: "true"
prometheus.io/port: {{ .port | quote }}
prometheus.io/path: /metrics
{{- end }}

{{- /* `secrets` (environment variable → Secret's name and key) as a list of `env`. */ -}}
{{- define "agent-pipelines.secretEnv" -}}
{{- range $variable, $from := . }}
{{- if $from }}
- name: {{ $variable }}
  valueFrom: {secretKeyRef: {name: {{ $from.name }}, key: {{ $from.key }}}}
{{- end }}
{{- end }}
{{- end }}

{{- /*
Variables of a container of our image. A thing with `assets` loads the assets folder: it gets what
that refers to, the secrets too. (A folder whose variable is not set is a broken folder.)
*/ -}}
{{- define "agent-pipelines.env" -}}
- {name: HOME, value: /tmp}
- {name: PYTHONDONTWRITEBYTECODE, value: "1"}
{{- if .assets }}
{{- include "agent-pipelines.secretEnv" .root.Values.secrets }}
{{- end }}
{{- if .dagster }}
- {name: DAGSTER_HOME, value: {{ .root.Values.dagster.home }}}
{{- include "agent-pipelines.secretEnv" (dict "DAGSTER_PG_PASSWORD" .root.Values.dagster.postgresqlSecret) }}
{{- end }}
{{- include "agent-pipelines.secretEnv" .secrets }}
{{- range $name, $value := .environment }}
- {name: {{ $name }}, value: {{ $value | quote }}}
{{- end }}
{{- end }}

{{- define "agent-pipelines.mounts" -}}
- {name: tmp, mountPath: /tmp}
- {name: state, mountPath: /state}
- {name: cache, mountPath: /cache}
{{- if and .assets .root.Values.assets.files }}
- {name: assets, mountPath: /assets, readOnly: true}
{{- end }}
{{- if .tls }}
- {name: tls, mountPath: /tls, readOnly: true}
{{- end }}
{{- if .dagster }}
- {name: dagster-home, mountPath: {{ .root.Values.dagster.home }}}
{{- end }}
{{- if eq (.dagster | default "") "instance" }}
- {name: dagster, mountPath: {{ .root.Values.dagster.home }}/dagster.yaml, subPath: dagster.yaml, readOnly: true}
{{- end }}
{{- with .mounts }}
{{ toYaml . }}
{{- end }}
{{- end }}

{{- /* Small and writable, each of its own; the root file system is neither. */ -}}
{{- define "agent-pipelines.volumes" -}}
- {name: tmp, emptyDir: {sizeLimit: 2Gi}}
- {name: state, emptyDir: {sizeLimit: 1Gi}}
- {name: cache, emptyDir: {sizeLimit: {{ .cacheSize | default "8Gi" }}}}
{{- if and .assets .root.Values.assets.files }}
- name: assets
  configMap:
    name: {{ .root.Release.Name }}-assets
    items:
      {{- range $path, $_ := .root.Values.assets.files }}
      - {key: {{ include "agent-pipelines.assetKey" $path }}, path: {{ $path }}}
      {{- end }}
{{- end }}
{{- with .tls }}
- {name: tls, secret: {secretName: {{ . }}, defaultMode: 0440}}
{{- end }}
{{- if .dagster }}
- {name: dagster-home, emptyDir: {sizeLimit: 1Gi}}
{{- end }}
{{- if eq (.dagster | default "") "instance" }}
- {name: dagster, configMap: {name: {{ .root.Values.dagster.instanceConfigMap }}}}
{{- end }}
{{- with .volumes }}
{{ toYaml . }}
{{- end }}
{{- end }}

{{- /*
What loads the assets computes vectors: it takes the converted embedder from the image into its own
cache, which it can write. (Converting it takes a minute of CPU time.)
*/ -}}
{{- define "agent-pipelines.fillCache" -}}
- name: cache
  image: {{ include "agent-pipelines.image" . }}
  imagePullPolicy: {{ .root.Values.image.pullPolicy }}
  command: [cp, -r, /app/cache/., /cache/]
  resources:
    requests: {cpu: 10m, memory: 32Mi}
    limits: {memory: 256Mi}
  securityContext:
    {{- include "agent-pipelines.containerSecurity" . | nindent 4 }}
  volumeMounts:
    - {name: cache, mountPath: /cache}
{{- end }}

{{- /* handbook/defs.yaml → handbook__defs.yaml: a key of a ConfigMap has no slash. */ -}}
{{- define "agent-pipelines.assetKey" -}}
{{ replace "/" "__" . }}
{{- end }}

{{- /*
A Deployment of our image. Of a thing it reads besides: `variant` (of the image; cpu), `args`, `replicas` (none: an autoscaler's
affair), `ports` (name → number), `assets`, `dagster` (`instance`: it opens Dagster's; `home`: it is
handed one), `environment`, `secrets`, `tls` (the Secret's name),
`mounts`, `volumes`, `resources`, `token` (whether it gets one of its ServiceAccount), `probes` (their
YAML, where they are others than those of the port `probes`), `start` and `grace` in seconds.
*/ -}}
{{- define "agent-pipelines.deployment" -}}
{{- $values := .root.Values -}}
apiVersion: apps/v1
kind: Deployment
metadata:
  {{- include "agent-pipelines.metadata" . | nindent 2 }}
spec:
  {{- with .replicas }}
  replicas: {{ . }}
  {{- end }}
  revisionHistoryLimit: 5
  strategy:
    {{- include "agent-pipelines.rolling" . | nindent 4 }}
  selector:
    matchLabels:
      {{- include "agent-pipelines.selector" . | nindent 6 }}
  template:
    metadata:
      labels:
        {{- include "agent-pipelines.labels" . | nindent 8 }}
      annotations:
        {{- if .assets }}
        # A change of either is a new rollout.
        checksum/environment: {{ include "agent-pipelines.environment" .root | sha256sum }}
        checksum/assets: {{ toJson $values.assets | sha256sum }}
        {{- end }}
        {{- with .ports.probes }}
        {{- include "agent-pipelines.scraped" (dict "port" .) | nindent 8 }}
        {{- end }}
    spec:
      serviceAccountName: {{ include "agent-pipelines.name" . }}
      automountServiceAccountToken: {{ .token | default false }}
      terminationGracePeriodSeconds: {{ .grace | default 45 }}
      securityContext:
        {{- include "agent-pipelines.podSecurity" . | nindent 8 }}
      topologySpreadConstraints:
        {{- include "agent-pipelines.spread" . | nindent 8 }}
      {{- with $values.imagePullSecrets }}
      imagePullSecrets: {{ toJson . }}
      {{- end }}
      {{- with $values.scheduling }}
      {{- toYaml . | nindent 6 }}
      {{- end }}
      {{- if .assets }}
      initContainers:
        {{- include "agent-pipelines.fillCache" . | nindent 8 }}
      {{- end }}
      containers:
        - name: {{ .component }}
          image: {{ include "agent-pipelines.image" . }}
          imagePullPolicy: {{ $values.image.pullPolicy }}
          args: {{ toJson .args }}
          {{- if .assets }}
          envFrom:
            - configMapRef: {name: {{ .root.Release.Name }}-environment}
          {{- end }}
          env:
            {{- include "agent-pipelines.env" . | nindent 12 }}
          ports:
            {{- range $name, $number := .ports }}
            - {name: {{ $name }}, containerPort: {{ $number }}}
            {{- end }}
          {{- if .probes }}
          {{- .probes | nindent 10 }}
          {{- else }}
          {{- include "agent-pipelines.probes" . | nindent 10 }}
          {{- end }}
          lifecycle:
            # Until nobody is sent here any more; only then it is told to end, and drains.
            preStop: {sleep: {seconds: 5}}
          resources:
            {{- toYaml .resources | nindent 12 }}
          securityContext:
            {{- include "agent-pipelines.containerSecurity" . | nindent 12 }}
          volumeMounts:
            {{- include "agent-pipelines.mounts" . | nindent 12 }}
      volumes:
        {{- include "agent-pipelines.volumes" . | nindent 8 }}
{{- end }}

{{- define "agent-pipelines.service" -}}
apiVersion: v1
kind: Service
metadata:
  {{- include "agent-pipelines.metadata" . | nindent 2 }}
spec:
  type: ClusterIP
  selector:
    {{- include "agent-pipelines.selector" . | nindent 4 }}
  ports:
    {{- range $name, $number := .ports }}
    - {name: {{ $name }}, port: {{ $number }}, targetPort: {{ $name }}}
    {{- end }}
{{- end }}

{{- /* A drain of a node takes one replica at a time. */ -}}
{{- define "agent-pipelines.disruptionBudget" -}}
apiVersion: policy/v1
kind: PodDisruptionBudget
metadata:
  {{- include "agent-pipelines.metadata" . | nindent 2 }}
spec:
  maxUnavailable: 1
  unhealthyPodEvictionPolicy: AlwaysAllow
  selector:
    matchLabels:
      {{- include "agent-pipelines.selector" . | nindent 6 }}
{{- end }}
