{{/*
A list of a text and a length: the text, or its beginning and a hash of the whole where it is longer, so that two long
names that begin alike stay different.
*/}}
{{- define "ingestion-engine.cut" -}}
{{- $text := index . 0 -}}
{{- $most := index . 1 -}}
{{- if gt (len $text) $most -}}
{{- printf "%s-%s" ($text | trunc (int (sub $most 9)) | trimSuffix "-") ($text | sha256sum | trunc 8) -}}
{{- else -}}
{{- $text -}}
{{- end -}}
{{- end -}}

{{/* Name of the chart, in labels. */}}
{{- define "ingestion-engine.name" -}}
{{- include "ingestion-engine.cut" (list (default .Chart.Name .Values.nameOverride) 40) -}}
{{- end -}}

{{/* First part of the name of every object: 40 characters, so that a suffix and the hash of a pod still fit into 63. */}}
{{- define "ingestion-engine.fullname" -}}
{{- $name := include "ingestion-engine.name" . -}}
{{- $text := printf "%s-%s" .Release.Name $name -}}
{{- if .Values.fullnameOverride -}}
{{- $text = .Values.fullnameOverride -}}
{{- else if contains $name .Release.Name -}}
{{- $text = .Release.Name -}}
{{- end -}}
{{- include "ingestion-engine.cut" (list $text 40) -}}
{{- end -}}

{{/*
Name of the objects in spark.namespace. In a namespace that is not the release's it names the release's too: releases of
the same name in two namespaces may share one for their jobs.
*/}}
{{- define "ingestion-engine.sparkName" -}}
{{- $name := include "ingestion-engine.fullname" . -}}
{{- if not (has .Values.spark.namespace (list "" .Release.Namespace)) -}}
{{- $name = printf "%s-%s" $name .Release.Namespace -}}
{{- end -}}
{{- include "ingestion-engine.cut" (list $name 57) -}}
{{- end -}}

{{/* Account of drivers and executors. */}}
{{- define "ingestion-engine.sparkAccount" -}}
{{- default (printf "%s-spark" (include "ingestion-engine.sparkName" .)) .Values.spark.jobServiceAccount.name -}}
{{- end -}}

{{/* Labels that select the pods of the release; never changed by an upgrade. */}}
{{- define "ingestion-engine.selector" -}}
app.kubernetes.io/name: {{ include "ingestion-engine.name" . | quote }}
app.kubernetes.io/instance: {{ .Release.Name | quote }}
{{- end -}}

{{/* Labels of every object. */}}
{{- define "ingestion-engine.labels" -}}
{{ include "ingestion-engine.selector" . }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" | trunc 63 | trimSuffix "-" }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
app.kubernetes.io/part-of: ingestion-engine
{{- with .Values.commonLabels }}
{{ toYaml . }}
{{- end }}
{{- end -}}

{{/* Metadata of an object: a list of root, component ("" for none), and the suffix of its name ("" for none). */}}
{{- define "ingestion-engine.metadata" -}}
{{- $root := index . 0 -}}
{{- $component := index . 1 -}}
{{- $suffix := index . 2 -}}
name: "{{ include "ingestion-engine.fullname" $root }}{{ with $suffix }}-{{ . }}{{ end }}"
namespace: {{ $root.Release.Namespace }}
labels:
  {{- include "ingestion-engine.labels" $root | nindent 2 }}
  {{- with $component }}
  app.kubernetes.io/component: {{ . }}
  {{- end }}
{{- with $root.Values.commonAnnotations }}
annotations:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- end -}}

{{/* Reference of an image: a list of root and the image's values. Its own registry and tag go before the common ones. */}}
{{- define "ingestion-engine.image" -}}
{{- $root := index . 0 -}}
{{- $image := index . 1 -}}
{{- $registry := coalesce $image.registry $root.Values.image.registry -}}
{{- $path := $image.repository -}}
{{- with $registry }}{{ $path = printf "%s/%s" (. | trimSuffix "/") $path }}{{ end -}}
{{- if $image.digest -}}
{{- printf "%s@%s" $path $image.digest -}}
{{- else -}}
{{- printf "%s:%s" $path (coalesce $image.tag $root.Values.image.tag $root.Chart.AppVersion) -}}
{{- end -}}
{{- end -}}

{{- define "ingestion-engine.serviceAccountName" -}}
{{- if .Values.serviceAccount.create -}}
{{- default (include "ingestion-engine.fullname" .) .Values.serviceAccount.name -}}
{{- else -}}
{{- default "default" .Values.serviceAccount.name -}}
{{- end -}}
{{- end -}}

{{/*
A value of a setting as the text of its variable. Helm reads every number as a floating-point one, and would print
268435456 as 2.68435456e+08; lists are joined by commas, as the settings read them, and those of objects are JSON.
*/}}
{{- define "ingestion-engine.text" -}}
{{- if and (kindIs "slice" .) (kindIs "map" (first .)) -}}
{{- toJson . -}}
{{- else if kindIs "slice" . -}}
{{- $parts := list -}}
{{- range . }}{{ $parts = append $parts (include "ingestion-engine.text" .) }}{{ end -}}
{{- join "," $parts -}}
{{- else if and (kindIs "float64" .) (eq (floor .) .) -}}
{{- printf "%.0f" . -}}
{{- else -}}
{{- toString . -}}
{{- end -}}
{{- end -}}

{{/* URL by which service, drivers and workers find all gateways, and these each other. */}}
{{- define "ingestion-engine.gatewayUrl" -}}
dns+http://{{ include "ingestion-engine.fullname" . }}-gateway.{{ .Release.Namespace }}.svc:{{ .Values.gateway.port }}
{{- end -}}

{{- define "ingestion-engine.rayName" -}}
{{- default (printf "%s-ray" (include "ingestion-engine.fullname" .)) .Values.rayCluster.name -}}
{{- end -}}

{{/* Secret with the token of the RayCluster: yours, or the one that KubeRay makes under the cluster's name. */}}
{{- define "ingestion-engine.rayTokenSecret" -}}
{{- default (include "ingestion-engine.rayName" .) .Values.rayCluster.auth.existingSecret -}}
{{- end -}}

{{/* Settings that all processes share, as JSON: those under `config`, and those that follow from other values. */}}
{{- define "ingestion-engine.settings" -}}
{{- $env := dict -}}
{{- range $name, $value := .Values.config -}}
{{- if kindIs "map" $value -}}
{{- range $field, $inner := $value -}}
{{- if not (kindIs "invalid" $inner) -}}
{{- $_ := set $env (printf "INGEST_%s__%s" (upper $name) (upper $field)) (include "ingestion-engine.text" $inner) -}}
{{- end -}}
{{- end -}}
{{- else if not (kindIs "invalid" $value) -}}
{{- $_ := set $env (printf "INGEST_%s" (upper $name)) (include "ingestion-engine.text" $value) -}}
{{- end -}}
{{- end -}}
{{- if .Values.gateway.enabled -}}
{{- $_ := set $env "INGEST_GATEWAY__URL" (include "ingestion-engine.gatewayUrl" .) -}}
{{- end -}}
{{- if .Values.rayCluster.enabled -}}
{{- $_ := set $env "INGEST_RAY__ADDRESS" (printf "http://%s-head-svc.%s.svc:8265" (include "ingestion-engine.rayName" .) .Release.Namespace) -}}
{{- end -}}
{{- if .Values.spark.enabled -}}
{{- $_ := set $env "INGEST_SPARK__NAMESPACE" (default .Release.Namespace .Values.spark.namespace) -}}
{{- $_ := set $env "INGEST_SPARK__IMAGE" (include "ingestion-engine.image" (list . .Values.spark.image)) -}}
{{- $_ := set $env "INGEST_SPARK__SERVICE_ACCOUNT" (include "ingestion-engine.sparkAccount" .) -}}
{{- with .Values.spark.existingSecret }}{{ $_ := set $env "INGEST_SPARK__SECRET_NAME" . }}{{ end -}}
{{- $labels := list -}}
{{- range $key, $value := .Values.spark.labels }}{{ $labels = append $labels (printf "%s=%s" $key (toString $value)) }}{{ end -}}
{{- if .Values.kueue.enabled }}{{ $labels = append $labels (printf "kueue.x-k8s.io/queue-name=%s" .Values.kueue.queueName) }}{{ end -}}
{{- if $labels }}{{ $_ := set $env "INGEST_SPARK__LABELS" (join "," $labels) }}{{ end -}}
{{- if include "ingestion-engine.sparkTemplate" . -}}
{{- $_ := set $env "INGEST_SPARK__POD_TEMPLATE" "/etc/ingest/spark/pod-template.yaml" -}}
{{- end -}}
{{- end -}}
{{- if include "ingestion-engine.hasCa" . -}}
{{- $_ := set $env "INGEST_TLS__CA_FILE" (include "ingestion-engine.caFile" .) -}}
{{- end -}}
{{- $_ := set $env "INGEST_API__ALLOWED_HOSTS" (include "ingestion-engine.allowedHosts" .) -}}
{{- with include "ingestion-engine.publicUrl" . }}{{ $_ := set $env "INGEST_API__PUBLIC_URL" . }}{{ end -}}
{{- if .Values.auth.databaseKeys }}{{ $_ := set $env "INGEST_API__DATABASE_KEYS" "true" }}{{ end -}}
{{- if .Values.auth.allowEverybody }}{{ $_ := set $env "INGEST_API__ALLOW_ANONYMOUS" "true" }}{{ end -}}
{{- $_ := set $env "INGEST_DATA_DIR" "/var/lib/ingest" -}}
{{- toJson $env -}}
{{- end -}}

{{/* Whether callers are known: by keys of a file or of the database, or by a provider. */}}
{{- define "ingestion-engine.hasAuth" -}}
{{- if or .Values.auth.existingSecret .Values.auth.databaseKeys (dig "oidc" "issuer" "" (default dict .Values.config)) }}yes{{ end -}}
{{- end -}}

{{/*
Names under which the API is reached: its Service's, those of Ingress and HTTPRoute, and yours. Probes and scrapes use
the addresses of pods, which are always allowed.
*/}}
{{- define "ingestion-engine.allowedHosts" -}}
{{- $service := printf "%s-api" (include "ingestion-engine.fullname" .) -}}
{{- $space := printf "%s.%s" $service .Release.Namespace -}}
{{- $names := list $service $space (printf "%s.svc" $space) (printf "%s.svc.%s" $space .Values.clusterDomain) -}}
{{- if .Values.ingress.enabled }}{{ range .Values.ingress.hosts }}{{ $names = append $names .host }}{{ end }}{{ end -}}
{{- if .Values.httpRoute.enabled }}{{ range .Values.httpRoute.hostnames }}{{ $names = append $names . }}{{ end }}{{ end -}}
{{- $own := dig "api" "allowed_hosts" list (default dict .Values.config) -}}
{{- if kindIs "slice" $own }}{{ $names = concat $names $own }}{{ else }}{{ $names = concat $names (splitList "," (toString $own)) }}{{ end -}}
{{- join "," (uniq (compact $names)) -}}
{{- end -}}

{{/* URL for browsers: yours, or that of the first host of the Ingress or the HTTPRoute, unless it is a wildcard. */}}
{{- define "ingestion-engine.publicUrl" -}}
{{- $own := dig "api" "public_url" "" (default dict .Values.config) -}}
{{- $host := "" -}}
{{- $scheme := "https" -}}
{{- if and .Values.ingress.enabled .Values.ingress.hosts -}}
{{- $host = (first .Values.ingress.hosts).host -}}
{{- if not .Values.ingress.tls }}{{ $scheme = "http" }}{{ end -}}
{{- else if and .Values.httpRoute.enabled .Values.httpRoute.hostnames -}}
{{- $host = first .Values.httpRoute.hostnames -}}
{{- end -}}
{{- if $own -}}
{{- $own -}}
{{- else if and $host (not (hasPrefix "*" $host)) -}}
{{- printf "%s://%s" $scheme $host -}}
{{- end -}}
{{- end -}}

{{- define "ingestion-engine.hasCa" -}}
{{- if or .Values.tls.existingConfigMap .Values.tls.existingSecret }}yes{{ end -}}
{{- end -}}

{{- define "ingestion-engine.caFile" -}}
{{ .Values.tls.mountPath }}/{{ .Values.tls.key }}
{{- end -}}

{{/* The volume with the authorities; the same in every pod, so that their path is the same everywhere. */}}
{{- define "ingestion-engine.caVolume" -}}
name: ca
{{- if .Values.tls.existingConfigMap }}
configMap:
  name: {{ .Values.tls.existingConfigMap }}
  items: [{key: {{ .Values.tls.key | quote }}, path: {{ .Values.tls.key | quote }}}]
{{- else }}
secret:
  secretName: {{ .Values.tls.existingSecret }}
  items: [{key: {{ .Values.tls.key | quote }}, path: {{ .Values.tls.key | quote }}}]
{{- end }}
{{- end -}}

{{/* The file of pod templates of Spark: yours, with the volume of authorities added to each role. */}}
{{- define "ingestion-engine.sparkTemplate" -}}
{{- $given := deepCopy (default dict .Values.spark.podTemplate) -}}
{{- if and (not $given) (include "ingestion-engine.hasCa" .) -}}
{{- $given = dict "spec" dict -}}
{{- end -}}
{{- if $given -}}
{{- if include "ingestion-engine.hasCa" . -}}
{{- $roles := list $given -}}
{{- if or (hasKey $given "driver") (hasKey $given "executor") -}}
{{- $roles = list -}}
{{- range $role := list "driver" "executor" -}}
{{- if not (hasKey $given $role) }}{{ $_ := set $given $role (dict "spec" dict) }}{{ end -}}
{{- $roles = append $roles (get $given $role) -}}
{{- end -}}
{{- end -}}
{{- $mount := dict "name" "ca" "mountPath" .Values.tls.mountPath "readOnly" true -}}
{{- $volume := fromYaml (include "ingestion-engine.caVolume" .) -}}
{{- range $role := $roles -}}
{{- $spec := default dict $role.spec -}}
{{- $containers := default (list (dict "name" "spark")) $spec.containers -}}
{{- $first := first $containers -}}
{{- $_ := set $first "volumeMounts" (append (default list $first.volumeMounts) $mount) -}}
{{- $_ := set $spec "containers" (prepend (rest $containers) $first) -}}
{{- $_ := set $spec "volumes" (append (default list $spec.volumes) $volume) -}}
{{- $_ := set $role "spec" $spec -}}
{{- end -}}
{{- end -}}
{{- toYaml $given -}}
{{- end -}}
{{- end -}}

{{/*
The Secret volume of the service: one directory with a file per variable, read with INGEST_SECRETS_DIR. Files and no
variables of the environment, because every child process would inherit those.
*/}}
{{- define "ingestion-engine.secretsVolume" -}}
name: secrets
projected:
  defaultMode: 0440
  sources:
    {{- with .Values.existingSecret }}
    - secret:
        name: {{ . }}
    {{- end }}
    # Named, so that a pod does not start without it: it would make an SQLite database of its own.
    - secret:
        name: {{ default .Values.existingSecret .Values.database.existingSecret }}
        items: [{key: {{ include "ingestion-engine.databaseKey" . }}, path: INGEST_DATABASE_URL}]
    {{- if .Values.rayCluster.enabled }}
    - secret:
        name: {{ include "ingestion-engine.rayTokenSecret" . }}
        items: [{key: auth_token, path: INGEST_RAY__AUTH_TOKEN}]
    {{- end }}
{{- end -}}

{{/* Spread of the pods of one component over nodes: a list of root and component. */}}
{{- define "ingestion-engine.spread" -}}
{{- $root := index . 0 -}}
{{- $component := index . 1 -}}
{{- $values := get $root.Values $component -}}
{{- if $values.topologySpreadConstraints -}}
{{- toYaml $values.topologySpreadConstraints -}}
{{- else -}}
{{- range $key := list "kubernetes.io/hostname" "topology.kubernetes.io/zone" -}}
- maxSkew: 1
  topologyKey: {{ $key }}
  whenUnsatisfiable: ScheduleAnyway
  labelSelector:
    matchLabels:
      {{- include "ingestion-engine.selector" $root | nindent 6 }}
      app.kubernetes.io/component: {{ $component }}
  matchLabelKeys: [pod-template-hash]
{{ end -}}
{{- end -}}
{{- end -}}

{{/*
The pod of api, dispatcher or gateway: a list of root and component. They differ in command, port, and in what they may
read: only api and dispatcher have secrets, and call Kubernetes when Spark is on.
*/}}
{{- define "ingestion-engine.podTemplate" -}}
{{- $root := index . 0 -}}
{{- $component := index . 1 -}}
{{- $values := get $root.Values $component -}}
{{- $isGateway := eq $component "gateway" -}}
{{- $port := $isGateway | ternary $root.Values.gateway.port $root.Values.api.port -}}
metadata:
  labels:
    {{- include "ingestion-engine.selector" $root | nindent 4 }}
    app.kubernetes.io/component: {{ $component }}
    app.kubernetes.io/version: {{ $root.Chart.AppVersion | quote }}
    app.kubernetes.io/part-of: ingestion-engine
    {{- with $root.Values.commonLabels }}
    {{- toYaml . | nindent 4 }}
    {{- end }}
    {{- with $values.podLabels }}
    {{- toYaml . | nindent 4 }}
    {{- end }}
  annotations:
    checksum/config: {{ include "ingestion-engine.settings" $root | sha256sum }}
    {{- if and (not $isGateway) $root.Values.spark.enabled }}
    checksum/spark-template: {{ include "ingestion-engine.sparkTemplate" $root | sha256sum }}
    {{- end }}
    kubectl.kubernetes.io/default-container: {{ $component }}
    {{- with $root.Values.commonAnnotations }}
    {{- toYaml . | nindent 4 }}
    {{- end }}
    {{- with $values.podAnnotations }}
    {{- toYaml . | nindent 4 }}
    {{- end }}
spec:
  {{- with $root.Values.imagePullSecrets }}
  imagePullSecrets:
    {{- toYaml . | nindent 4 }}
  {{- end }}
  {{- if $isGateway }}
  serviceAccountName: default
  automountServiceAccountToken: false
  {{- else }}
  serviceAccountName: {{ include "ingestion-engine.serviceAccountName" $root | quote }}
  automountServiceAccountToken: {{ $root.Values.spark.enabled }}
  {{- end }}
  enableServiceLinks: false
  securityContext:
    {{- toYaml $root.Values.podSecurityContext | nindent 4 }}
  terminationGracePeriodSeconds: {{ $values.terminationGracePeriodSeconds }}
  {{- with $values.priorityClassName }}
  priorityClassName: {{ . }}
  {{- end }}
  {{- with $values.nodeSelector }}
  nodeSelector:
    {{- toYaml . | nindent 4 }}
  {{- end }}
  {{- with $values.tolerations }}
  tolerations:
    {{- toYaml . | nindent 4 }}
  {{- end }}
  {{- with $values.affinity }}
  affinity:
    {{- toYaml . | nindent 4 }}
  {{- end }}
  topologySpreadConstraints:
    {{- include "ingestion-engine.spread" (list $root $component) | nindent 4 }}
  containers:
    - name: {{ $component }}
      image: {{ include "ingestion-engine.image" (list $root $root.Values.image) }}
      imagePullPolicy: {{ $root.Values.image.pullPolicy }}
      command: [ingest, {{ $isGateway | ternary "gateway" "serve" }}]
      ports:
        - name: http
          containerPort: {{ $port }}
          protocol: TCP
      envFrom:
        - configMapRef:
            name: {{ include "ingestion-engine.fullname" $root }}-config
      env:
        {{- if $isGateway }}
        - {name: INGEST_GATEWAY__HOST, value: {{ $root.Values.listenAddress | quote }}}
        - {name: INGEST_GATEWAY__PORT, value: {{ $port | quote }}}
        {{- else }}
        - {name: INGEST_API__HOST, value: {{ $root.Values.listenAddress | quote }}}
        - {name: INGEST_API__PORT, value: {{ $port | quote }}}
        - {name: INGEST_DISPATCH__ENABLED, value: {{ eq $component "dispatcher" | quote }}}
        - {name: INGEST_DATABASE__MIGRATE, value: {{ eq $root.Values.migrations.mode "start" | quote }}}
        - {name: INGEST_SECRETS_DIR, value: /run/secrets/ingest}
        {{- if $root.Values.auth.existingSecret }}
        - {name: INGEST_API__KEYS_FILE, value: {{ printf "/run/secrets/api-keys/%s" $root.Values.auth.key | quote }}}
        {{- end }}
        {{- end }}
        {{- with concat (default list $root.Values.extraEnv) (default list $values.extraEnv) }}
        {{- toYaml . | nindent 8 }}
        {{- end }}
      startupProbe:
        httpGet: {path: /livez, port: http}
        periodSeconds: 2
        timeoutSeconds: 2
        {{- /* Two minutes, and half an hour where the pod itself migrates the database before it serves. */}}
        failureThreshold: {{ and (not $isGateway) (eq $root.Values.migrations.mode "start") | ternary 900 60 }}
      livenessProbe:
        httpGet: {path: /livez, port: http}
        periodSeconds: 10
        timeoutSeconds: 5
        failureThreshold: 6
      readinessProbe:
        httpGet: {path: /readyz, port: http}
        periodSeconds: 5
        timeoutSeconds: 3
        failureThreshold: 3
      {{- if ne $component "dispatcher" }}
      lifecycle:
        preStop:
          sleep: {seconds: 5}
      {{- end }}
      {{- with $values.resources }}
      resources:
        {{- toYaml . | nindent 8 }}
      {{- end }}
      securityContext:
        {{- toYaml $root.Values.securityContext | nindent 8 }}
      volumeMounts:
        - {name: tmp, mountPath: /tmp}
        - {name: data, mountPath: /var/lib/ingest}
        {{- if not $isGateway }}
        - {name: secrets, mountPath: /run/secrets/ingest, readOnly: true}
        {{- if $root.Values.auth.existingSecret }}
        - {name: api-keys, mountPath: /run/secrets/api-keys, readOnly: true}
        {{- end }}
        {{- if and $root.Values.spark.enabled (include "ingestion-engine.sparkTemplate" $root) }}
        - {name: spark-template, mountPath: /etc/ingest/spark, readOnly: true}
        {{- end }}
        {{- end }}
        {{- if include "ingestion-engine.hasCa" $root }}
        - {name: ca, mountPath: {{ $root.Values.tls.mountPath | quote }}, readOnly: true}
        {{- end }}
        {{- with concat (default list $root.Values.extraVolumeMounts) (default list $values.extraVolumeMounts) }}
        {{- toYaml . | nindent 8 }}
        {{- end }}
  volumes:
    - name: tmp
      emptyDir: {sizeLimit: {{ $values.tmpSize }}}
    - name: data
      emptyDir: {sizeLimit: {{ $values.tmpSize }}}
    {{- if not $isGateway }}
    - {{- include "ingestion-engine.secretsVolume" $root | nindent 6 }}
    {{- if $root.Values.auth.existingSecret }}
    - name: api-keys
      secret:
        secretName: {{ $root.Values.auth.existingSecret }}
        defaultMode: 0440
        items: [{key: {{ $root.Values.auth.key | quote }}, path: {{ $root.Values.auth.key | quote }}}]
    {{- end }}
    {{- if and $root.Values.spark.enabled (include "ingestion-engine.sparkTemplate" $root) }}
    - name: spark-template
      configMap:
        name: {{ include "ingestion-engine.fullname" $root }}-spark-template
    {{- end }}
    {{- end }}
    {{- if include "ingestion-engine.hasCa" $root }}
    - {{- include "ingestion-engine.caVolume" $root | nindent 6 }}
    {{- end }}
    {{- with concat (default list $root.Values.extraVolumes) (default list $values.extraVolumes) }}
    {{- toYaml . | nindent 4 }}
    {{- end }}
{{- end -}}

{{/* The port that a URL leads to; servers of Ollama may be written as dns+http://name:port#8. */}}
{{- define "ingestion-engine.port" -}}
{{- $url := urlParse (regexReplaceAll "#.*$" (trimPrefix "dns+" (trim .)) "") -}}
{{- $port := regexFind ":[0-9]+$" $url.host | trimPrefix ":" -}}
{{- default (eq $url.scheme "https" | ternary "443" "80") $port -}}
{{- end -}}

{{/* Ports of the systems that api and dispatcher call, as JSON: {system: [port]}; they follow from the settings. */}}
{{- define "ingestion-engine.ports" -}}
{{- $settings := include "ingestion-engine.settings" . | fromJson -}}
{{- $ports := dict -}}
{{- range $system, $variables := dict "s3" (list "INGEST_S3__ENDPOINT_URL") "ollama" (list "INGEST_OLLAMA__URLS" "INGEST_GATEWAY__URL") "qdrant" (list "INGEST_QDRANT__URL") "weaviate" (list "INGEST_WEAVIATE__URL" "INGEST_WEAVIATE__GRPC_URL") "ray" (list "INGEST_RAY__ADDRESS") "tracing" (list "INGEST_TRACING__ENDPOINT") -}}
{{- $found := list -}}
{{- range $variable := $variables -}}
{{- if not (and (eq $variable "INGEST_GATEWAY__URL") $.Values.gateway.enabled) -}}
{{- range $url := splitList "," (default "" (get $settings $variable)) -}}
{{- if $url }}{{ $found = append $found (include "ingestion-engine.port" $url | int) }}{{ end -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- if and (eq $system "s3") (not $found) }}{{ $found = list 443 }}{{ end -}}
{{- if and (eq $system "weaviate") (hasKey $settings "INGEST_WEAVIATE__URL") (not (hasKey $settings "INGEST_WEAVIATE__GRPC_URL")) }}{{ $found = append $found 50051 }}{{ end -}}
{{- $_ := set $ports $system (uniq $found) -}}
{{- end -}}
{{- if .Values.spark.enabled }}{{ $_ := set $ports "kubernetes" (list 443 6443) }}{{ end -}}
{{- toJson $ports -}}
{{- end -}}

{{/* What drivers and workers of Ray read: a Secret of their own, or only their keys of that of the service. */}}
{{- define "ingestion-engine.workerSecretsVolume" -}}
name: secrets
{{- if .Values.rayCluster.existingSecret }}
secret:
  secretName: {{ .Values.rayCluster.existingSecret }}
  defaultMode: 0440
{{- else }}
projected:
  defaultMode: 0440
  sources:
    {{- range $key := list "INGEST_S3__ACCESS_KEY_ID" "INGEST_S3__SECRET_ACCESS_KEY" "INGEST_QDRANT__API_KEY" "INGEST_WEAVIATE__API_KEY" }}
    - secret:
        name: {{ $.Values.existingSecret }}
        items: [{key: {{ $key }}, path: {{ $key }}}]
        optional: true
    {{- end }}
{{- end }}
{{- end -}}

{{/* The pod of a head or a worker of Ray: a list of root, role and the values of that role. */}}
{{- define "ingestion-engine.rayPod" -}}
{{- $root := index . 0 -}}
{{- $role := index . 1 -}}
{{- $values := index . 2 -}}
{{- $ray := $root.Values.rayCluster -}}
{{- $hasSecrets := or $ray.existingSecret $root.Values.existingSecret -}}
metadata:
  labels:
    {{- /* KubeRay adds app.kubernetes.io/name: kuberay, and its Service selects by it. */}}
    app.kubernetes.io/instance: {{ $root.Release.Name | quote }}
    app.kubernetes.io/part-of: ingestion-engine
    app.kubernetes.io/component: ray-{{ $role }}
    {{- with $root.Values.commonLabels }}
    {{- toYaml . | nindent 4 }}
    {{- end }}
    {{- with $values.podLabels }}
    {{- toYaml . | nindent 4 }}
    {{- end }}
  {{- with merge dict $values.podAnnotations $root.Values.commonAnnotations }}
  annotations:
    {{- toYaml . | nindent 4 }}
  {{- end }}
spec:
  {{- with $root.Values.imagePullSecrets }}
  imagePullSecrets:
    {{- toYaml . | nindent 4 }}
  {{- end }}
  {{- if $ray.serviceAccountName }}
  serviceAccountName: {{ $ray.serviceAccountName }}
  {{- else if not (and (eq $role "head") $ray.autoscaling.enabled) }}
  serviceAccountName: default
  {{- end }}
  {{- /* The autoscaler in the head's pod changes the RayCluster, with an account that KubeRay makes if none is named. */}}
  automountServiceAccountToken: {{ and (eq $role "head") $ray.autoscaling.enabled }}
  enableServiceLinks: false
  restartPolicy: Never
  securityContext:
    {{- toYaml $ray.podSecurityContext | nindent 4 }}
  terminationGracePeriodSeconds: {{ $values.terminationGracePeriodSeconds }}
  {{- with $values.priorityClassName }}
  priorityClassName: {{ . }}
  {{- end }}
  {{- with $values.nodeSelector }}
  nodeSelector:
    {{- toYaml . | nindent 4 }}
  {{- end }}
  {{- with $values.tolerations }}
  tolerations:
    {{- toYaml . | nindent 4 }}
  {{- end }}
  {{- with $values.affinity }}
  affinity:
    {{- toYaml . | nindent 4 }}
  {{- end }}
  containers:
    - name: ray-{{ $role }}
      image: {{ include "ingestion-engine.image" (list $root $ray.image) }}
      imagePullPolicy: {{ $root.Values.image.pullPolicy }}
      {{- if eq $role "head" }}
      ports:
        - {name: gcs-server, containerPort: 6379}
        - {name: dashboard, containerPort: 8265}
        - {name: metrics, containerPort: 8080}
      {{- else }}
      ports:
        - {name: metrics, containerPort: 8080}
      {{- end }}
      env:
        - {name: RAY_USAGE_STATS_ENABLED, value: "0"}
        {{- if $hasSecrets }}
        - {name: INGEST_SECRETS_DIR, value: /run/secrets/ingest}
        {{- end }}
        {{- if include "ingestion-engine.hasCa" $root }}
        - {name: INGEST_TLS__CA_FILE, value: {{ include "ingestion-engine.caFile" $root | quote }}}
        {{- end }}
        {{- with $values.extraEnv }}
        {{- toYaml . | nindent 8 }}
        {{- end }}
      resources:
        {{- toYaml $values.resources | nindent 8 }}
      securityContext:
        {{- toYaml $ray.securityContext | nindent 8 }}
      volumeMounts:
        - {name: tmp, mountPath: /tmp}
        {{- if $hasSecrets }}
        - {name: secrets, mountPath: /run/secrets/ingest, readOnly: true}
        {{- end }}
        {{- if include "ingestion-engine.hasCa" $root }}
        - {name: ca, mountPath: {{ $root.Values.tls.mountPath | quote }}, readOnly: true}
        {{- end }}
        {{- with $values.extraVolumeMounts }}
        {{- toYaml . | nindent 8 }}
        {{- end }}
  volumes:
    - name: tmp
      emptyDir: {sizeLimit: {{ $values.tmpSize }}}
    {{- if $hasSecrets }}
    - {{- include "ingestion-engine.workerSecretsVolume" $root | nindent 6 }}
    {{- end }}
    {{- if include "ingestion-engine.hasCa" $root }}
    - {{- include "ingestion-engine.caVolume" $root | nindent 6 }}
    {{- end }}
    {{- with $values.extraVolumes }}
    {{- toYaml . | nindent 4 }}
    {{- end }}
{{- end -}}

{{/* Key of the database's URL in its Secret. */}}
{{- define "ingestion-engine.databaseKey" -}}
{{- if .Values.database.existingSecret }}{{ .Values.database.key }}{{ else }}INGEST_DATABASE_URL{{ end -}}
{{- end -}}
