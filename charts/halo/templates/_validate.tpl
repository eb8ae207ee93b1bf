{{/* Values that contradict each other, or cannot work, end here with a sentence. Types and unknown keys are the schema's. Takes the root. */}}
{{- define "halo.validate" -}}
{{- $values := .Values }}
{{- $aws := $values.aws }}
{{- if has .Release.Namespace (list "default" "kube-system" "kube-public") }}
{{- fail (printf "the gateway can read every Secret of its namespace: install into one of its own, such as halo-system, not into %s" .Release.Namespace) }}
{{- end }}

{{- if not $aws.region }}
{{- fail "aws.region is required: the region of the nodes, the root secret and the ledger, such as us-east-2" }}
{{- end }}
{{- if not $aws.cluster.name }}
{{- fail "aws.cluster.name is required: the EKS cluster's name, which tags all that the operator makes" }}
{{- end }}
{{- $told := list $aws.cluster.endpoint $aws.cluster.certificateAuthority $aws.cluster.serviceCIDR | compact | len }}
{{- if and $told (lt $told 3) }}
{{- fail "aws.cluster: nodes from EC2 join with endpoint, certificateAuthority and serviceCIDR; give all three, or none if all nodes are there already" }}
{{- end }}
{{- range $name, $url := $aws.endpoints }}
{{- if and (kindIs "string" $url) $url (not (regexMatch "^https?://[^/]+/?$" $url)) }}
{{- fail (printf "aws.endpoints.%s is a URL without a path, such as https://vpce-0123.%s.%s.vpce.amazonaws.com, not %q" $name $name $aws.region $url) }}
{{- end }}
{{- end }}
{{- if $aws.isolatedVPC }}
{{- if not $aws.endpoints.privateDNS }}
{{- range $name := list "ec2" "ssm" "dynamodb" }}
{{- if not (get $aws.endpoints $name) }}
{{- fail (printf "aws.isolatedVPC: nothing leaves the VPC, so aws.endpoints.%s must say where it is answered inside, or aws.endpoints.privateDNS that its public name leads there" $name) }}
{{- end }}
{{- end }}
{{- end }}
{{- if $values.networkPolicy.enabled }}
{{- range $values.networkPolicy.awsCIDRs }}
{{- if has . (list "0.0.0.0/0" "::/0") }}
{{- fail "aws.isolatedVPC: networkPolicy.awsCIDRs still allows every network; name those of the VPC endpoints' subnets, such as 10.0.0.0/16" }}
{{- end }}
{{- end }}
{{- end }}
{{- end }}

{{- if regexMatch "://" $values.global.imageRegistry }}
{{- fail (printf "global.imageRegistry is a host and a path, such as registry.example.com/mirror, not a URL: %q" $values.global.imageRegistry) }}
{{- end }}
{{- $labels := dict "global.labels" $values.global.labels "operator.podLabels" $values.operator.podLabels "gateway.podLabels" $values.gateway.podLabels "monitoring.monitors.labels" $values.monitoring.monitors.labels "monitoring.rules.labels" $values.monitoring.rules.labels "monitoring.dashboards.labels" $values.monitoring.dashboards.labels }}
{{- range $name, $map := $labels }}
{{- range $key := list "app.kubernetes.io/name" "app.kubernetes.io/instance" "app.kubernetes.io/version" "app.kubernetes.io/part-of" "app.kubernetes.io/managed-by" "helm.sh/chart" }}
{{- if hasKey $map $key }}
{{- fail (printf "%s may not hold %s: the chart and its selectors own it" $name $key) }}
{{- end }}
{{- end }}
{{- end }}
{{- $images := dict "operator.image" $values.operator.image "operator.substrate.image" $values.operator.substrate.image "gateway.image" $values.gateway.image "tests.image" $values.tests.image }}
{{- range $name, $image := $images }}
{{- if not $image.repository }}
{{- fail (printf "%s.repository is required" $name) }}
{{- end }}
{{- if and $image.digest (not (regexMatch "^sha256:[0-9a-f]{64}$" $image.digest)) }}
{{- fail (printf "%s.digest is sha256: and 64 hexadecimal digits, not %q" $name $image.digest) }}
{{- end }}
{{- end }}

{{- range $name := list "operator" "gateway" }}
{{- include "halo.validate.workload" (dict "name" $name "values" (get $values $name)) }}
{{- end }}
{{- range $type, $usd := $values.operator.prices }}
{{- if lt (float64 $usd) 0.0 }}
{{- fail (printf "operator.prices: %s costs %v USD an hour; a price is not negative" $type $usd) }}
{{- end }}
{{- end }}
{{- if and (regexMatch "^[0-9]+s$" $values.operator.leaseDuration) (regexMatch "^[0-9]+s$" $values.operator.leaseRenew) }}
{{- $duration := trimSuffix "s" $values.operator.leaseDuration | int }}
{{- $renew := trimSuffix "s" $values.operator.leaseRenew | int }}
{{- if gt (mul 4 $renew) $duration }}
{{- fail (printf "operator.leaseRenew (%s) is at most a quarter of operator.leaseDuration (%s): a leader needs time for a second try" $values.operator.leaseRenew $values.operator.leaseDuration) }}
{{- end }}
{{- end }}

{{- $monitors := $values.monitoring.monitors }}
{{- if and (regexMatch "^[0-9]+s$" $monitors.interval) (regexMatch "^[0-9]+s$" $monitors.scrapeTimeout) }}
{{- if gt (trimSuffix "s" $monitors.scrapeTimeout | int) (trimSuffix "s" $monitors.interval | int) }}
{{- fail (printf "monitoring.monitors.scrapeTimeout (%s) is longer than monitoring.monitors.interval (%s): the Prometheus operator leaves such monitors out" $monitors.scrapeTimeout $monitors.interval) }}
{{- end }}
{{- end }}

{{- include "halo.validate.gateway" . }}
{{- end }}

{{/* Takes {name, values}: what holds for both components. */}}
{{- define "halo.validate.workload" -}}
{{- $account := .values.serviceAccount }}
{{- if and (not $account.create) (not $account.name) }}
{{- fail (printf "%s.serviceAccount: name the account that is there already, or let the chart create one" .name) }}
{{- end }}
{{- if and $account.roleArn (not $account.create) }}
{{- fail (printf "%s.serviceAccount.roleArn: the chart annotates the accounts that it creates only; annotate %s yourself" .name $account.name) }}
{{- end }}
{{- if and $account.roleArn (not (regexMatch "^arn:aws[a-z-]*:iam::[0-9]{12}:role/.+$" $account.roleArn)) }}
{{- fail (printf "%s.serviceAccount.roleArn is the ARN of a role, such as arn:aws:iam::111122223333:role/halo-%s, not %q" .name .name $account.roleArn) }}
{{- end }}
{{- if and .values.affinity (eq .values.spread "required") }}
{{- fail (printf "%s.affinity takes the place of what %s.spread makes: set one of them" .name .name) }}
{{- end }}
{{- $budget := .values.podDisruptionBudget }}
{{- if $budget.enabled }}
{{- $most := toString $budget.maxUnavailable }}
{{- $least := toString $budget.minAvailable }}
{{- if and (ne $most "") (ne $least "") }}
{{- fail (printf "%s.podDisruptionBudget has maxUnavailable and minAvailable; set one of them to \"\"" .name) }}
{{- end }}
{{- if and (eq $most "") (eq $least "") }}
{{- fail (printf "%s.podDisruptionBudget needs maxUnavailable or minAvailable" .name) }}
{{- end }}
{{- if has $most (list "0" "0%") }}
{{- fail (printf "%s.podDisruptionBudget.maxUnavailable is %s: no node with such a pod could ever be drained" .name $most) }}
{{- end }}
{{- if eq $least "100%" }}
{{- fail (printf "%s.podDisruptionBudget.minAvailable is 100%%: no node with such a pod could ever be drained" .name) }}
{{- end }}
{{- if and (regexMatch "^[0-9]+$" $least) (ge (int $least) (int .values.replicas)) (gt (int .values.replicas) 0) }}
{{- fail (printf "%s.podDisruptionBudget.minAvailable is %s and %s.replicas %d: no node with such a pod could ever be drained" .name $least .name (int .values.replicas)) }}
{{- end }}
{{- end }}
{{- end }}

{{/* The limits that must not be 0: the gateway would not start. */}}
{{- define "halo.gateway.neededLimits" -}}
sockets handshakes handshake_ms request_ms first_frame_ms ping_ms send_ms refused_messages answer_tokens ledger_ms connect_ms notice_ms pod_silence_ms
{{- end }}

{{/* Takes the root: what holds for the gateway. */}}
{{- define "halo.validate.gateway" -}}
{{- $gateway := .Values.gateway }}
{{- $tls := $gateway.tls }}
{{- if and $tls.insecurePlaintext (or $tls.secretName $tls.certManager.enabled) }}
{{- fail "gateway.tls: insecurePlaintext serves without a certificate, and there is one: set one of secretName, certManager.enabled and insecurePlaintext" }}
{{- end }}
{{- if not (or $tls.insecurePlaintext $tls.secretName $tls.certManager.enabled) }}
{{- fail "gateway.tls: devices send what they heard over TLS only. Name a Secret (gateway.tls.secretName), or let cert-manager make one (gateway.tls.certManager.enabled), or set gateway.tls.insecurePlaintext if something in front terminates TLS" }}
{{- end }}
{{- if and $tls.certManager.enabled (not $tls.certManager.issuerRef.name) }}
{{- fail "gateway.tls.certManager.issuerRef.name is required: who signs the certificate" }}
{{- end }}
{{- if and $tls.certManager.enabled (not $tls.certManager.serviceNames) }}
{{- if not $tls.certManager.dnsNames }}
{{- fail "gateway.tls.certManager.dnsNames is required without the Service's names: a certificate needs a name" }}
{{- end }}
{{- if and .Values.tests.tenant (not .Values.tests.gateway) }}
{{- fail "tests.gateway is required with gateway.tls.certManager.serviceNames=false: the certificate does not name the Service; give the URL with one of dnsNames" }}
{{- end }}
{{- end }}
{{- if and (regexMatch "^[0-9]+h$" $tls.certManager.duration) (regexMatch "^[0-9]+h$" $tls.certManager.renewBefore) }}
{{- if ge (trimSuffix "h" $tls.certManager.renewBefore | int) (trimSuffix "h" $tls.certManager.duration | int) }}
{{- fail (printf "gateway.tls.certManager.renewBefore (%s) must be less than gateway.tls.certManager.duration (%s)" $tls.certManager.renewBefore $tls.certManager.duration) }}
{{- end }}
{{- end }}
{{- range $name := include "halo.gateway.neededLimits" . | splitList " " }}
{{- if not (get $gateway.config.limits $name) }}
{{- fail (printf "gateway.config.limits.%s must not be 0: nobody would be served" $name) }}
{{- end }}
{{- end }}
{{- $service := $gateway.service }}
{{- if and $service.loadBalancerClass (ne $service.type "LoadBalancer") }}
{{- fail (printf "gateway.service.loadBalancerClass is for the type LoadBalancer, not %s" $service.type) }}
{{- end }}
{{- if and $service.loadBalancerSourceRanges (ne $service.type "LoadBalancer") }}
{{- fail (printf "gateway.service.loadBalancerSourceRanges is for the type LoadBalancer, not %s: networkPolicy.deviceCIDRs holds for all" $service.type) }}
{{- end }}
{{- if and $service.nodePort (eq $service.type "ClusterIP") }}
{{- fail "gateway.service.nodePort is for the types NodePort and LoadBalancer, not ClusterIP" }}
{{- end }}
{{- $least := include "halo.gateway.grace" . | int }}
{{- $grace := int $gateway.terminationGracePeriodSeconds }}
{{- if and $grace (lt $grace $least) }}
{{- fail (printf "gateway.terminationGracePeriodSeconds is %d, and preStopSeconds, drain_ms and pod_close_ms need %d: answers would be cut off; leave it 0 to have it computed" $grace $least) }}
{{- end }}
{{- if and .Values.tests.tenant $tls.insecurePlaintext (not .Values.tests.gateway) }}
{{- fail "tests.gateway is required with gateway.tls.insecurePlaintext: the URL at which something in front terminates TLS" }}
{{- end }}
{{- end }}
