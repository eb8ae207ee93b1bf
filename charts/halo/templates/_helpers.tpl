{{/* Names are fixed: the operator serves the whole cluster, so there is one release in it. A second one is refused by Helm, which finds the
     cluster roles owned by the first. */}}
{{- define "halo.operator.name" -}}halo-operator{{- end }}
{{- define "halo.gateway.name" -}}halo-gateway{{- end }}

{{/* Takes {root, name}. */}}
{{- define "halo.selector" -}}
app.kubernetes.io/name: {{ .name }}
app.kubernetes.io/instance: {{ .root.Release.Name }}
{{- end }}

{{/* Takes {root, name}, and more labels, which win over global.labels. One map, so that no key is there twice. */}}
{{- define "halo.labels" -}}
{{- with (merge (dict) (default dict .more) .root.Values.global.labels) }}
{{ toYaml . }}
{{- end }}
{{ include "halo.selector" . }}
app.kubernetes.io/version: {{ .root.Chart.AppVersion | quote }}
app.kubernetes.io/part-of: halo
app.kubernetes.io/managed-by: {{ .root.Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .root.Chart.Name .root.Chart.Version | replace "+" "_" }}
{{- end }}

{{/* Takes {root, name}, component if that differs from the name, namespace if it is not the release's, annotations, and more labels. The
     metadata of an object. */}}
{{- define "halo.metadata" -}}
name: {{ .name }}
namespace: {{ default .root.Release.Namespace .namespace }}
labels:
  {{- include "halo.labels" (dict "root" .root "name" (default .name .component) "more" .more) | trim | nindent 2 }}
{{- with (merge (dict) (default dict .annotations) .root.Values.global.annotations) }}
annotations:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- end }}

{{/* Takes {root, image}: the reference of an image. A digest wins over the tag; the global registry over the image's own. */}}
{{- define "halo.image" -}}
{{- $registry := default .image.registry .root.Values.global.imageRegistry | trimSuffix "/" -}}
{{- $name := ternary .image.repository (printf "%s/%s" $registry .image.repository) (empty $registry) -}}
{{- if .image.digest -}}
{{ $name }}@{{ .image.digest }}
{{- else -}}
{{ $name }}:{{ default .root.Chart.AppVersion .image.tag }}
{{- end -}}
{{- end }}

{{- define "halo.pullSecrets" -}}
{{- with .Values.global.imagePullSecrets }}
imagePullSecrets:
  {{- range . }}
  - name: {{ . }}
  {{- end }}
{{- end }}
{{- end }}

{{/* What Pod Security `restricted` asks of a pod, and of a container. */}}
{{- define "halo.podSecurity" -}}
runAsNonRoot: true
runAsUser: 65532
runAsGroup: 65532
fsGroup: 65532
fsGroupChangePolicy: OnRootMismatch
seccompProfile:
  type: RuntimeDefault
{{- end }}
{{- define "halo.containerSecurity" -}}
allowPrivilegeEscalation: false
capabilities:
  drop: [ALL]
privileged: false
readOnlyRootFilesystem: true
runAsNonRoot: true
seccompProfile:
  type: RuntimeDefault
{{- end }}

{{/* Takes {values, name}: the name of a component's service account. */}}
{{- define "halo.serviceAccountName" -}}
{{ default .name .values.serviceAccount.name }}
{{- end }}

{{/* Takes {root, values, name}: a component's service account, if the chart makes it. */}}
{{- define "halo.serviceAccount" -}}
{{- if .values.serviceAccount.create }}
apiVersion: v1
kind: ServiceAccount
{{- $annotations := deepCopy .values.serviceAccount.annotations }}
{{- with .values.serviceAccount.roleArn }}
{{- $annotations = set $annotations "eks.amazonaws.com/role-arn" . }}
{{- end }}
metadata:
  {{- include "halo.metadata" (dict "root" .root "name" (include "halo.serviceAccountName" .) "component" .name "annotations" $annotations) | nindent 2 }}
# Pods that need a token ask for it themselves.
automountServiceAccountToken: false
{{- end }}
{{- end }}

{{/* Takes {root, values, name, file}: roles and bindings from a file of files/rbac, under this release's namespace and account. */}}
{{- define "halo.rbac" -}}
{{- $account := include "halo.serviceAccountName" . }}
{{- $namespace := .root.Release.Namespace }}
{{- range $document := regexSplit "(?m)^---$" (.root.Files.Get .file) -1 }}
{{- $object := fromYaml $document }}
{{- if and $object (ne $object.kind "ServiceAccount") }}
{{- $labels := include "halo.labels" (dict "root" $.root "name" $.name) | fromYaml }}
{{- $_ := set $object.metadata "labels" $labels }}
{{- with $.root.Values.global.annotations }}{{ $_ = set $object.metadata "annotations" . }}{{ end }}
{{- if hasKey $object.metadata "namespace" }}{{ $_ = set $object.metadata "namespace" $namespace }}{{ end }}
{{- range $object.subjects }}
{{- $_ = set . "name" $account }}
{{- $_ = set . "namespace" $namespace }}
{{- end }}
---
{{ toYaml $object }}
{{- end }}
{{- end }}
{{- end }}

{{/* Takes {values}: which nodes pods run on. Those of HALO's own pools come and go with their substrate, so nothing else runs there. The
     terms are alternatives, so that each of them must say it. */}}
{{- define "halo.nodes" -}}
{{- $away := dict "key" "halo.howdify.io/pool" "operator" "DoesNotExist" }}
{{- $nodes := default dict (deepCopy .values.affinity).nodeAffinity }}
{{- $required := default dict $nodes.requiredDuringSchedulingIgnoredDuringExecution }}
{{- $terms := list }}
{{- range (default (list dict) $required.nodeSelectorTerms) }}
{{- $terms = append $terms (set . "matchExpressions" (append (default list .matchExpressions) $away)) }}
{{- end }}
{{- $_ := set $nodes "requiredDuringSchedulingIgnoredDuringExecution" (dict "nodeSelectorTerms" $terms) -}}
nodeAffinity:
  {{- toYaml $nodes | nindent 2 }}
{{- end }}

{{/* Takes {values, selector}: where pods run, and how far apart. */}}
{{- define "halo.placement" -}}
{{- $affinity := omit .values.affinity "nodeAffinity" }}
{{- if and (empty .values.affinity) (eq .values.spread "required") }}
{{- $term := dict "topologyKey" "kubernetes.io/hostname" "labelSelector" (dict "matchLabels" (fromYaml .selector)) "matchLabelKeys" (list "pod-template-hash") }}
{{- $_ := set $affinity "podAntiAffinity" (dict "requiredDuringSchedulingIgnoredDuringExecution" (list $term)) }}
{{- else if empty .values.affinity }}
{{- $term := dict "topologyKey" "kubernetes.io/hostname" "labelSelector" (dict "matchLabels" (fromYaml .selector)) }}
{{- $_ := set $affinity "podAntiAffinity" (dict "preferredDuringSchedulingIgnoredDuringExecution" (list (dict "weight" 100 "podAffinityTerm" $term))) }}
{{- end -}}
affinity:
  {{- include "halo.nodes" . | nindent 2 }}
  {{- with $affinity }}
  {{- toYaml . | nindent 2 }}
  {{- end }}
{{- with .values.nodeSelector }}
nodeSelector:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .values.tolerations }}
tolerations:
  {{- toYaml . | nindent 2 }}
{{- end }}
topologySpreadConstraints:
{{- if .values.topologySpreadConstraints }}
  {{- toYaml .values.topologySpreadConstraints | nindent 2 }}
{{- else }}
  - maxSkew: 1
    topologyKey: topology.kubernetes.io/zone
    whenUnsatisfiable: {{ ternary "DoNotSchedule" "ScheduleAnyway" (eq .values.spread "required") }}
    # The pods of one rollout are spread, not those with the ones that they replace.
    matchLabelKeys: [pod-template-hash]
    labelSelector:
      matchLabels:
        {{- .selector | nindent 8 }}
{{- end }}
{{- end }}

{{/* Takes {root, values, name}: the disruption budget, if there is one. */}}
{{- define "halo.disruptionBudget" -}}
{{- $budget := .values.podDisruptionBudget }}
{{- if $budget.enabled }}
apiVersion: policy/v1
kind: PodDisruptionBudget
metadata:
  {{- include "halo.metadata" (dict "root" .root "name" .name) | nindent 2 }}
spec:
  {{- if ne (toString $budget.minAvailable) "" }}
  minAvailable: {{ $budget.minAvailable }}
  {{- else }}
  maxUnavailable: {{ $budget.maxUnavailable }}
  {{- end }}
  # A pod that is not ready is not protected, so that a broken one does not hold a drain up.
  unhealthyPodEvictionPolicy: AlwaysAllow
  selector:
    matchLabels:
      {{- include "halo.selector" . | nindent 6 }}
{{- end }}
{{- end }}

{{/* The region of the ledger's table, and its name for programs. */}}
{{- define "halo.ledger" -}}
dynamodb:{{ .Values.aws.ledger.table }}@{{ default .Values.aws.region .Values.aws.ledger.region }}
{{- end }}

{{/* How long the gateway's pods may take to end, in seconds: they serve on, drain, close what is left, and let go. */}}
{{- define "halo.gateway.grace" -}}
{{- $limits := .Values.gateway.config.limits }}
{{- $milliseconds := add (int64 $limits.drain_ms) (int64 $limits.pod_close_ms) }}
{{- add (int64 .Values.gateway.preStopSeconds) (div (add $milliseconds 999) 1000) 15 }}
{{- end }}

{{/* Environment variables that both components have. */}}
{{- define "halo.environment" -}}
- name: AWS_REGION
  value: {{ .Values.aws.region | quote }}
{{- with .Values.aws.endpoints.dynamodb }}
- name: AWS_ENDPOINT_URL_DYNAMODB
  value: {{ . | quote }}
{{- end }}
{{- with .Values.aws.endpoints.sts }}
- name: AWS_ENDPOINT_URL_STS
  value: {{ . | quote }}
{{- end }}
{{- with .Values.monitoring.otlpEndpoint }}
- name: OTEL_EXPORTER_OTLP_ENDPOINT
  value: {{ . | quote }}
{{- end }}
{{- end }}
