{{/* Number of copies of a component. */}}
{{- define "ingestion-engine.replicas" -}}
{{- if dig "autoscaling" "enabled" false . }}{{ .autoscaling.minReplicas }}{{ else }}{{ kindIs "invalid" .replicas | ternary 2 .replicas }}{{ end -}}
{{- end -}}

{{/* Whether somebody outside of the cluster can reach the API. */}}
{{- define "ingestion-engine.isExposed" -}}
{{- if or .Values.ingress.enabled .Values.httpRoute.enabled (ne .Values.api.service.type "ClusterIP") }}yes{{ end -}}
{{- end -}}

{{/* Fails with one sentence for each combination of values that cannot work; all of them at once. */}}
{{- define "ingestion-engine.validate" -}}
{{- $values := .Values -}}
{{- $config := default dict $values.config -}}
{{- $faults := list -}}
{{- if not (or $values.existingSecret $values.database.existingSecret) -}}
{{- $faults = append $faults "No database: name a Secret with INGEST_DATABASE_URL (PostgreSQL) in existingSecret, or one of its own in database.existingSecret." -}}
{{- end -}}
{{- if not (regexMatch "^[a-z]" (include "ingestion-engine.fullname" .)) -}}
{{- $faults = append $faults "The release's name begins with a digit, which the name of a Service must not: set fullnameOverride." -}}
{{- end -}}
{{- $state := default "" $config.state_url -}}
{{- if not $state -}}
{{- $faults = append $faults "No state store: set config.state_url, for example s3://bucket/prefix." -}}
{{- else if hasPrefix "file:" $state -}}
{{- $faults = append $faults "config.state_url is a directory: pods, drivers and workers share no file system; use s3://bucket/prefix." -}}
{{- end -}}
{{- $gateways := dig "gateway" "url" "" $config -}}
{{- if and $values.gateway.enabled $gateways -}}
{{- $faults = append $faults "gateway.enabled and config.gateway.url name two gateways: switch off the one of the chart, or remove the URL." -}}
{{- end -}}
{{- if not (or (dig "ollama" "urls" "" $config) $gateways) -}}
{{- $faults = append $faults "No embedder: set config.ollama.urls; the default of the program is loopback, which is the pod itself." -}}
{{- end -}}
{{- range $name, $url := include "ingestion-engine.settings" . | fromJson -}}
{{- if regexMatch "://(localhost|127\\.|\\[::1\\])" $url -}}
{{- $faults = append $faults (printf "%s is a loopback address, which is the pod itself: %s." $name $url) -}}
{{- end -}}
{{- end -}}
{{- if and $values.rayCluster.enabled (dig "ray" "address" "" $config) -}}
{{- $faults = append $faults "rayCluster.enabled and config.ray.address name two Ray clusters: remove one." -}}
{{- end -}}
{{- if and (dig "ray" "address" "" $config) $values.gateway.enabled $values.networkPolicy.enabled (not $values.networkPolicy.gateway.from) -}}
{{- $faults = append $faults "The pods of your Ray cluster (config.ray.address) would not reach the gateway, and its jobs would wait for ever: name them in networkPolicy.gateway.from, or set gateway.enabled to false." -}}
{{- end -}}
{{- if and $values.rayCluster.enabled (gt (int $values.rayCluster.workers.minReplicas) (int $values.rayCluster.workers.maxReplicas)) -}}
{{- $faults = append $faults "rayCluster.workers.minReplicas is greater than maxReplicas." -}}
{{- end -}}
{{- if $values.spark.enabled -}}
{{- if not $values.spark.image.repository -}}
{{- $faults = append $faults "spark.enabled needs spark.image.repository: an image with Spark, the package and /opt/ingest/spark_main.py." -}}
{{- end -}}
{{- if not (or $values.spark.jobServiceAccount.create $values.spark.jobServiceAccount.name) -}}
{{- $faults = append $faults "Without spark.jobServiceAccount.create, spark.enabled needs spark.jobServiceAccount.name: the default account of a namespace may not create executors." -}}
{{- end -}}
{{- if and $values.spark.rbac.create (eq (include "ingestion-engine.serviceAccountName" .) "default") -}}
{{- $faults = append $faults "spark.rbac.create would let every pod of the namespace start Spark jobs: set serviceAccount.create or serviceAccount.name." -}}
{{- end -}}
{{- end -}}
{{- if $values.kueue.enabled -}}
{{- if not $values.kueue.queueName -}}
{{- $faults = append $faults "kueue.enabled needs kueue.queueName, the name of a LocalQueue." -}}
{{- end -}}
{{- if not (or $values.spark.enabled $values.rayCluster.enabled) -}}
{{- $faults = append $faults "kueue.enabled has nothing to put into the queue: set spark.enabled or rayCluster.enabled." -}}
{{- end -}}
{{- if and $values.rayCluster.enabled $values.rayCluster.autoscaling.enabled (not (hasKey $values.rayCluster.annotations "kueue.x-k8s.io/elastic-job")) -}}
{{- $faults = append $faults "kueue.enabled and rayCluster.autoscaling.enabled: Kueue refuses a RayCluster that scales, unless rayCluster.annotations has 'kueue.x-k8s.io/elastic-job' and its feature gate ElasticJobsViaWorkloadSlices is on." -}}
{{- end -}}
{{- if hasKey $values.spark.labels "kueue.x-k8s.io/queue-name" -}}
{{- $faults = append $faults "kueue.queueName and spark.labels both name a queue: remove the label." -}}
{{- end -}}
{{- end -}}
{{- if not (or $values.api.enabled $values.dispatcher.enabled $values.gateway.enabled) -}}
{{- $faults = append $faults "Nothing to install: enable api, dispatcher or gateway." -}}
{{- end -}}
{{- with $values.api -}}
{{- if and .autoscaling.enabled (not (kindIs "invalid" .replicas)) -}}
{{- $faults = append $faults "api.replicas and api.autoscaling.enabled both decide how many copies run: leave api.replicas null." -}}
{{- end -}}
{{- if and .autoscaling.enabled (gt (int .autoscaling.minReplicas) (int .autoscaling.maxReplicas)) -}}
{{- $faults = append $faults "api.autoscaling.minReplicas is greater than maxReplicas." -}}
{{- end -}}
{{- if and .autoscaling.enabled (not (dig "requests" "cpu" "" (default dict .resources))) -}}
{{- $faults = append $faults "api.autoscaling needs api.resources.requests.cpu: its target is a percentage of that." -}}
{{- end -}}
{{- end -}}
{{- range $component := list "api" "dispatcher" "gateway" -}}
{{- $one := get $values $component -}}
{{- $budget := $one.podDisruptionBudget -}}
{{- if and $one.enabled $budget.enabled -}}
{{- $minimum := $budget.minAvailable -}}
{{- if and (not (kindIs "invalid" $minimum)) (not (kindIs "invalid" $budget.maxUnavailable)) -}}
{{- $faults = append $faults (printf "%s.podDisruptionBudget has both minAvailable and maxUnavailable: set one of them to null." $component) -}}
{{- else if or (eq (toString $minimum) "100%") (and (regexMatch "^[0-9]+$" (toString $minimum)) (ge (int $minimum) (int (include "ingestion-engine.replicas" $one)))) -}}
{{- $faults = append $faults (printf "%s.podDisruptionBudget.minAvailable is the number of copies, so no node could ever be drained: lower it, or use maxUnavailable." $component) -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- if and $values.ingress.enabled $values.httpRoute.enabled -}}
{{- $faults = append $faults "ingress.enabled and httpRoute.enabled would publish the API twice: choose one." -}}
{{- end -}}
{{- if and (or $values.ingress.enabled $values.httpRoute.enabled) (not $values.api.enabled) -}}
{{- $faults = append $faults "ingress and httpRoute lead to the API, which api.enabled switches off." -}}
{{- end -}}
{{- if and $values.ingress.enabled (not $values.ingress.hosts) -}}
{{- $faults = append $faults "ingress.enabled needs ingress.hosts." -}}
{{- end -}}
{{- if and $values.httpRoute.enabled (not $values.httpRoute.parentRefs) -}}
{{- $faults = append $faults "httpRoute.enabled needs httpRoute.parentRefs, the Gateway that it is attached to." -}}
{{- end -}}
{{- if and (not (include "ingestion-engine.hasAuth" .)) (not $values.auth.allowEverybody) -}}
{{- $faults = append $faults (printf "Nobody would have to log in, and everybody who reaches the API%s could read, change and delete everything: name the Secret of the API keys in auth.existingSecret, set auth.databaseKeys to true, or name a provider in config.oidc.issuer; or set auth.allowEverybody to true." (empty (include "ingestion-engine.isExposed" .) | ternary " in the cluster" " from outside of the cluster")) -}}
{{- end -}}
{{- if and (include "ingestion-engine.hasAuth" .) $values.auth.allowEverybody -}}
{{- $faults = append $faults "auth.allowEverybody and a way to log in (auth.existingSecret, auth.databaseKeys, config.oidc.issuer) contradict each other: remove one." -}}
{{- end -}}
{{- if and $values.tls.existingConfigMap $values.tls.existingSecret -}}
{{- $faults = append $faults "tls.existingConfigMap and tls.existingSecret both name the authorities: remove one." -}}
{{- end -}}
{{- if and (eq $values.migrations.mode "start") $values.migrations.existingSecret -}}
{{- $faults = append $faults "migrations.existingSecret is used by a Job only: set migrations.mode to hook or job." -}}
{{- end -}}
{{- if $faults -}}
{{- fail (printf "\n\n%s\n" (join "\n" $faults)) -}}
{{- end -}}
{{- end -}}
