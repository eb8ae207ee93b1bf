//! Starting, stopping, identities, counts, and what is left after a kill.

use std::{
    io::{BufRead as _, BufReader},
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::Duration,
};

use halo_e2e_cluster::{ControlPlane, Controllers, KUBERNETES_VERSION, Options, eventually};
use k8s_openapi::api::{
    core::v1::{ConfigMap, Namespace, ServiceAccount},
    rbac::v1::{ClusterRole, ClusterRoleBinding},
};
use kube::{
    Api,
    api::{DeleteParams, ListParams, PostParams},
};
use serde_json::json;

use crate::object;

const DEADLINE: Duration = Duration::from_secs(60);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_api_server_alone() {
    let mut plane = ControlPlane::start(Options::default()).await.unwrap();
    let client = plane.client().await.unwrap();
    assert_eq!(
        client.apiserver_version().await.unwrap().git_version,
        KUBERNETES_VERSION
    );

    let output = plane
        .kubectl_with(
            &["apply", "-f", "-"],
            "{apiVersion: v1, kind: ConfigMap, metadata: {name: a, namespace: default}, data: {k: v}}",
        )
        .await
        .unwrap();
    assert!(output.status.success(), "{output:?}");
    let output = plane
        .kubectl(&["get", "configmap", "a", "-o", "jsonpath={.data.k}"])
        .await
        .unwrap();
    assert_eq!(output.stdout, b"v");
    let output = plane.kubectl(&["get", "configmap", "none"]).await.unwrap();
    assert!(!output.status.success());
    assert!(String::from_utf8_lossy(&output.stderr).contains("not found"));

    outage(&plane).await;
    plane.check().unwrap();
}

/// The API server comes back on its old address with its old objects, and a frozen one answers nothing.
async fn outage(plane: &ControlPlane) {
    let client = plane.client().await.unwrap();
    let maps: Api<ConfigMap> = Api::namespaced(client, "default");
    let url = plane.url();
    plane.stop_api_server();
    assert!(maps.get("a").await.is_err());
    plane.start_api_server().await.unwrap();
    assert_eq!(plane.url(), url);
    maps.get("a").await.unwrap();

    plane.freeze_api_server().unwrap();
    let asked = tokio::time::timeout(Duration::from_millis(300), maps.get("a")).await;
    assert!(asked.is_err(), "a frozen API server answered");
    plane.thaw_api_server().unwrap();
    eventually(DEADLINE, || maps.get("a")).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn identities_and_counts() {
    let plane = ControlPlane::start(Options::default()).await.unwrap();
    let admin = plane.client().await.unwrap();

    // RBAC knows the user and both groups of a certificate, and the service account of a token.
    let roles: Api<ClusterRole> = Api::all(admin.clone());
    let role = json!({"metadata": {"name": "reader"}, "rules": [{"apiGroups": [""], "resources": ["configmaps"], "verbs": ["get", "list"]}]});
    roles
        .create(&PostParams::default(), &object(role))
        .await
        .unwrap();
    let bindings: Api<ClusterRoleBinding> = Api::all(admin.clone());
    let binding = json!({
        "metadata": {"name": "readers"},
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "reader"},
        "subjects": [
            {"kind": "Group", "name": "second", "apiGroup": "rbac.authorization.k8s.io"},
            {"kind": "ServiceAccount", "name": "robot", "namespace": "default"},
        ],
    });
    bindings
        .create(&PostParams::default(), &object(binding))
        .await
        .unwrap();
    let accounts: Api<ServiceAccount> = Api::namespaced(admin.clone(), "default");
    let account = json!({"metadata": {"name": "robot"}});
    accounts
        .create(&PostParams::default(), &object(account))
        .await
        .unwrap();

    let allowed = [
        plane
            .client_as("alice", &["first", "second"])
            .await
            .unwrap(),
        plane
            .service_account_client("default", "robot")
            .await
            .unwrap(),
    ];
    for client in allowed {
        let maps: Api<ConfigMap> = Api::namespaced(client.clone(), "default");
        let all = ListParams::default();
        eventually(DEADLINE, || maps.list(&all)).await;
        let refused = Api::<Namespace>::all(client)
            .list(&ListParams::default())
            .await;
        assert!(matches!(refused, Err(kube::Error::Api(status)) if status.code == 403));
    }
    let nobody = plane.client_as("bob", &["first"]).await.unwrap();
    let maps: Api<ConfigMap> = Api::namespaced(nobody, "default");
    assert!(maps.list(&ListParams::default()).await.is_err());
    assert_eq!(plane.requests_of("bob").unwrap().len(), 1);
    assert_eq!(plane.requests_of("bob").unwrap()[0].code, Some(403));
    assert!(
        !plane
            .requests_of("system:serviceaccount:default:robot")
            .unwrap()
            .is_empty()
    );
    assert!(plane.client_as("carol", &["a", "b", "c"]).await.is_err());

    // Each request is counted once, before its answer is there, and under its own name.
    let client = plane.client_named("counted/1").await.unwrap();
    let maps: Api<ConfigMap> = Api::namespaced(client, "default");
    let mark = plane.mark().unwrap();
    assert_eq!(plane.requests_by("counted/").unwrap(), []);
    for number in 1..=20 {
        let name = format!("m{number}");
        let map = json!({"metadata": {"name": name}});
        maps.create(&PostParams::default(), &object(map))
            .await
            .unwrap();
        assert_eq!(plane.requests_by("counted/").unwrap().len(), number);
    }
    maps.delete("m1", &DeleteParams::default()).await.unwrap();
    let requests = plane.requests_since(mark).unwrap();
    assert_eq!(requests.len(), 21);
    assert_eq!(requests[20].verb, "delete");
    assert_eq!(requests[20].name, "m1");
    assert_eq!(
        (requests[0].verb.as_str(), requests[0].resource.as_str()),
        ("create", "configmaps")
    );
    let counts = plane.request_counts().await.unwrap();
    let created: u64 = counts
        .iter()
        .filter(|(kind, _)| {
            kind.verb == "POST" && kind.resource == "configmaps" && kind.code == "201"
        })
        .map(|(_, count)| count)
        .sum();
    assert!(created >= 20, "{counts:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn controllers_end_a_namespace() {
    let options = Options {
        controllers: Controllers::On,
        ..Options::default()
    };
    let plane = ControlPlane::start(options).await.unwrap();
    let namespaces: Api<Namespace> = Api::all(plane.client().await.unwrap());
    let namespace = json!({"metadata": {"name": "short"}});
    namespaces
        .create(&PostParams::default(), &object(namespace))
        .await
        .unwrap();
    namespaces
        .delete("short", &DeleteParams::default())
        .await
        .unwrap();
    eventually(DEADLINE, || async {
        match namespaces.get_opt("short").await {
            Ok(None) => Ok(()),
            other => Err(format!("{other:?}")),
        }
    })
    .await;
}

#[tokio::test]
async fn a_refused_flag_is_in_the_error() {
    let options = Options {
        api_server_flags: vec!["--no-such-flag".to_owned()],
        ..Options::default()
    };
    let error = ControlPlane::start(options)
        .await
        .map(|_| ())
        .unwrap_err()
        .to_string();
    assert!(error.contains("kube-apiserver ended by itself"), "{error}");
    assert!(error.contains("unknown flag: --no-such-flag"), "{error}");
}

/// Not a test of its own: what [`nothing_is_left_after_a_kill`] kills.
#[tokio::test]
#[ignore = "the victim of another test, which runs it"]
async fn victim() {
    let plane = ControlPlane::start(Options::default()).await.unwrap();
    let folder = plane.kubeconfig_path();
    println!("FOLDER {}", folder.parent().unwrap().display());
    std::future::pending::<()>().await;
}

#[tokio::test]
async fn nothing_is_left_after_a_kill() {
    let mut victim = Command::new(std::env::current_exe().unwrap())
        .args([
            "--ignored",
            "--exact",
            "control_plane::victim",
            "--nocapture",
        ])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let output = BufReader::new(victim.stdout.take().unwrap());
    let line = output
        .lines()
        .map(Result::unwrap)
        .find(|line| line.contains("FOLDER "));
    let folder = PathBuf::from(line.unwrap().split_once("FOLDER ").unwrap().1);
    assert!(folder.is_dir());
    // The API server, etcd, the shells above them and the cleaner.
    assert!(processes_that_mention(&folder).len() >= 5);
    victim.kill().unwrap();
    victim.wait().unwrap();
    eventually(DEADLINE, || async {
        let left = processes_that_mention(&folder);
        if left.is_empty() && !folder.exists() {
            Ok(())
        } else {
            Err(format!("{left:?}"))
        }
    })
    .await;
}

fn processes_that_mention(folder: &Path) -> Vec<String> {
    let folder = folder.display().to_string();
    let mut found = Vec::new();
    for entry in std::fs::read_dir("/proc").unwrap().flatten() {
        if let Ok(arguments) = std::fs::read(entry.path().join("cmdline")) {
            let arguments = String::from_utf8_lossy(&arguments).into_owned();
            if arguments.contains(&folder) {
                found.push(arguments);
            }
        }
    }
    found
}
