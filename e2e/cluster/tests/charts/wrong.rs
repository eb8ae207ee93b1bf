//! Values that cannot work: each is refused, with a sentence that says what to write instead.

use crate::helm::{chart, helm, render};

/// Values that contradict each other, and what the refusal says.
const CONTRADICTIONS: [(&[&str], &str); 42] = [
    (&["aws.region=\"\""], "aws.region is required"),
    (&["aws.cluster.name=\"\""], "aws.cluster.name is required"),
    (
        &["aws.cluster.endpoint=\"https://x\""],
        "give all three, or none",
    ),
    (
        &["aws.endpoints.ec2=\"vpce.example.com\""],
        "aws.endpoints.ec2 is a URL without a path",
    ),
    (
        &["aws.endpoints.ssm=\"https://x/path\""],
        "aws.endpoints.ssm is a URL without a path",
    ),
    (
        &["aws.isolatedVPC=true"],
        "aws.endpoints.ec2 must say where it is answered",
    ),
    (
        &[
            "aws.isolatedVPC=true",
            "aws.endpoints={\"ec2\":\"https://x\",\"ssm\":\"https://x\"}",
        ],
        "aws.endpoints.dynamodb must say where it is answered",
    ),
    (
        &["aws.isolatedVPC=true", "aws.endpoints.privateDNS=true"],
        "networkPolicy.awsCIDRs still allows every network",
    ),
    (
        &["global.imageRegistry=\"https://registry.example.com\""],
        "global.imageRegistry is a host and a path",
    ),
    (
        &["operator.image.repository=\"\""],
        "operator.image.repository is required",
    ),
    (
        &["operator.image.digest=\"sha256:12\""],
        "operator.image.digest is sha256: and 64 hexadecimal digits",
    ),
    (
        &["operator.substrate.image.digest=\"latest\""],
        "operator.substrate.image.digest is sha256:",
    ),
    (
        &["gateway.image.digest=\"md5:12\""],
        "gateway.image.digest is sha256:",
    ),
    (
        &["tests.image.digest=\"x\""],
        "tests.image.digest is sha256:",
    ),
    (
        &["operator.serviceAccount.create=false"],
        "operator.serviceAccount: name the account",
    ),
    (
        &[
            "gateway.serviceAccount={\"create\":false,\"name\":\"g\",\"roleArn\":\"arn:aws:iam::111122223333:role/g\"}",
        ],
        "annotate g yourself",
    ),
    (
        &["gateway.serviceAccount.roleArn=\"halo-gateway\""],
        "gateway.serviceAccount.roleArn is the ARN of a role",
    ),
    (
        &[
            "operator.spread=\"required\"",
            "operator.affinity={\"podAffinity\":{}}",
        ],
        "set one of them",
    ),
    (
        &["gateway.podDisruptionBudget.minAvailable=1"],
        "has maxUnavailable and minAvailable",
    ),
    (
        &["gateway.podDisruptionBudget.maxUnavailable=\"\""],
        "needs maxUnavailable or minAvailable",
    ),
    (
        &["operator.podDisruptionBudget.maxUnavailable=0"],
        "operator.podDisruptionBudget.maxUnavailable is 0",
    ),
    (
        &["operator.podDisruptionBudget.maxUnavailable=\"0%\""],
        "operator.podDisruptionBudget.maxUnavailable is 0%",
    ),
    (
        &["gateway.podDisruptionBudget={\"maxUnavailable\":\"\",\"minAvailable\":\"100%\"}"],
        "minAvailable is 100%",
    ),
    (
        &[
            "gateway.replicas=1",
            "gateway.podDisruptionBudget={\"maxUnavailable\":\"\",\"minAvailable\":1}",
        ],
        "gateway.podDisruptionBudget.minAvailable is 1 and gateway.replicas 1: no node with such a pod could ever be drained",
    ),
    (
        &["operator.prices={\"r7iz.4xlarge\":-1}"],
        "operator.prices: r7iz.4xlarge costs -1 USD",
    ),
    (
        &["operator.leaseRenew=\"5s\""],
        "at most a quarter of operator.leaseDuration (15s)",
    ),
    (
        &["gateway.config.limits.ping_ms=0"],
        "gateway.config.limits.ping_ms must not be 0",
    ),
    (
        &["gateway.tls.secretName=\"\""],
        "gateway.tls: devices send what they heard over TLS only",
    ),
    (
        &["gateway.tls.insecurePlaintext=true"],
        "insecurePlaintext serves without a certificate",
    ),
    (
        &["gateway.tls.certManager.enabled=true"],
        "gateway.tls.certManager.issuerRef.name is required",
    ),
    (
        &["gateway.service.loadBalancerClass=\"x\""],
        "gateway.service.loadBalancerClass is for the type LoadBalancer",
    ),
    (
        &["gateway.service.loadBalancerSourceRanges=[\"10.0.0.0/8\"]"],
        "loadBalancerSourceRanges is for the type LoadBalancer",
    ),
    (
        &["gateway.service.nodePort=30443"],
        "gateway.service.nodePort is for the types NodePort",
    ),
    (
        &["gateway.terminationGracePeriodSeconds=30"],
        "need 52: answers would be cut off",
    ),
    (
        &[
            "tests.tenant=\"acme\"",
            "gateway.tls={\"secretName\":\"\",\"insecurePlaintext\":true}",
        ],
        "tests.gateway is required with gateway.tls.insecurePlaintext",
    ),
    (
        &["global.labels={\"app.kubernetes.io/name\":\"x\"}"],
        "global.labels may not hold app.kubernetes.io/name",
    ),
    (
        &["gateway.podLabels={\"app.kubernetes.io/instance\":\"x\"}"],
        "gateway.podLabels may not hold app.kubernetes.io/instance",
    ),
    (
        &["monitoring.monitors.labels={\"app.kubernetes.io/name\":\"x\"}"],
        "monitoring.monitors.labels may not hold app.kubernetes.io/name",
    ),
    (
        &["monitoring.monitors.scrapeTimeout=\"31s\""],
        "scrapeTimeout (31s) is longer than monitoring.monitors.interval (30s)",
    ),
    (
        &[
            "gateway.tls.certManager={\"enabled\":true,\"issuerRef\":{\"name\":\"x\"},\"serviceNames\":false}",
        ],
        "gateway.tls.certManager.dnsNames is required",
    ),
    (
        &[
            "gateway.tls.certManager={\"enabled\":true,\"issuerRef\":{\"name\":\"x\"},\"serviceNames\":false,\"dnsNames\":[\"x.example.com\"]}",
            "tests.tenant=\"acme\"",
        ],
        "tests.gateway is required with gateway.tls.certManager.serviceNames=false",
    ),
    (
        &["gateway.tls.certManager.renewBefore=\"2160h\""],
        "renewBefore (2160h) must be less than gateway.tls.certManager.duration (2160h)",
    ),
];

/// Values of the wrong form, and the key and the complaint of the schema.
const MISTAKES: [(&str, &str, &str); 19] = [
    ("operater={}", "''", "'operater' not allowed"),
    ("operator.replica=3", "'/operator'", "'replica' not allowed"),
    (
        "operator.replicas=\"3\"",
        "'/operator/replicas'",
        "want integer",
    ),
    ("operator.replicas=-1", "'/operator/replicas'", "minimum"),
    (
        "gateway.image.pullPolicy=\"Sometimes\"",
        "'/gateway/image/pullPolicy'",
        "",
    ),
    (
        "gateway.config.limits.hold_s=1",
        "'/gateway/config/limits'",
        "'hold_s' not allowed",
    ),
    (
        "gateway.config.limits.hold_ms=\"1s\"",
        "'/gateway/config/limits/hold_ms'",
        "want integer",
    ),
    (
        "gateway.config.tenants=[]",
        "'/gateway/config'",
        "'tenants' not allowed",
    ),
    (
        "gateway.config.cluster.content=\"forget\"",
        "'/gateway/config/cluster/content'",
        "",
    ),
    (
        "gateway.service.type=\"ExternalName\"",
        "'/gateway/service/type'",
        "",
    ),
    (
        "gateway.service.port=70000",
        "'/gateway/service/port'",
        "maximum",
    ),
    (
        "gateway.tolerations=[{\"keys\":\"x\"}]",
        "'/gateway/tolerations/0'",
        "'keys' not allowed",
    ),
    (
        "gateway.extraEnv=[{\"name\":\"A\",\"value\":1}]",
        "'/gateway/extraEnv/0/value'",
        "want string",
    ),
    (
        "gateway.podDisruptionBudget.minAvailable=\"half\"",
        "'/gateway/podDisruptionBudget/minAvailable'",
        "",
    ),
    (
        "monitoring.renderMode=\"never\"",
        "'/monitoring/renderMode'",
        "",
    ),
    (
        "monitoring.monitors.interval=\"30\"",
        "'/monitoring/monitors/interval'",
        "does not match pattern",
    ),
    (
        "monitoring.monitors.scrapeTimeout=\"\"",
        "'/monitoring/monitors/scrapeTimeout'",
        "minLength",
    ),
    (
        "gateway.tls.certManager.duration=\"90d\"",
        "'/gateway/tls/certManager/duration'",
        "does not match pattern",
    ),
    (
        "aws.endpoints.s3=\"https://x\"",
        "'/aws/endpoints'",
        "'s3' not allowed",
    ),
];

#[test]
fn contradictions_are_refused_with_a_sentence() {
    for (set, sentence) in CONTRADICTIONS {
        let flags: Vec<&str> = set.iter().flat_map(|set| ["--set-json", set]).collect();
        let complaint = render(&flags).bad();
        assert!(complaint.contains(sentence), "{set:?}: {complaint}");
    }
}

#[test]
fn mistakes_are_refused_by_their_key() {
    for (set, key, says) in MISTAKES {
        let complaint = render(&["--set-json", set]).bad();
        assert!(
            complaint.contains(&format!("at {key}")),
            "{set}: {complaint}"
        );
        assert!(complaint.contains(says), "{set}: {complaint}");
    }
}

#[test]
fn the_definitions_have_no_values() {
    let chart = chart("halo-crds");
    let complaint = helm(None, &["template", "x", &chart, "--set", "keep=false"]).bad();
    assert!(complaint.contains("'keep' not allowed"), "{complaint}");
    // As part of another chart it is given these.
    helm(
        None,
        &["template", "x", &chart, "--set", "global.imageRegistry=x"],
    )
    .good();
}

#[test]
fn the_gateways_namespace_is_its_own() {
    for namespace in ["default", "kube-system", "kube-public"] {
        let complaint = render(&["--namespace", namespace]).bad();
        assert!(
            complaint.contains("the gateway can read every Secret of its namespace"),
            "{complaint}"
        );
    }
    let text = render(&["--namespace", "elsewhere"]).good();
    assert!(text.contains("namespace: elsewhere") && !text.contains("halo-system"));
}
