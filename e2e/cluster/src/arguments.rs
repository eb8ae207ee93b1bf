//! The files and flags that the programs start with.

use std::{fs, net::Ipv4Addr, path::Path};

use crate::{
    access::MASTERS,
    error::Error,
    options::{Controllers, Options},
    pki::{self, Authority},
};

/// A flag whose value is a file in the control plane's folder.
pub(crate) fn file_flag(folder: &Path, flag: &str, name: &str) -> String {
    format!("--{flag}={}", folder.join(name).display())
}

/// The authority, and the files that the programs take: certificates and keys.
pub(crate) fn write_credentials(
    folder: &Path,
    address: Option<Ipv4Addr>,
) -> Result<Authority, Error> {
    let authority = Authority::new()?;
    let address = address.unwrap_or(Ipv4Addr::LOCALHOST).to_string();
    let server = authority.server(&[
        &address,
        "127.0.0.1",
        "10.96.0.1",
        "localhost",
        "kubernetes",
        "kubernetes.default",
        "kubernetes.default.svc",
        "kubernetes.default.svc.cluster.local",
    ])?;
    let kubelets = authority.client("kube-apiserver", &[MASTERS])?;
    let (public, private) = pki::service_account_keys()?;
    for (name, text) in [
        ("ca.crt", authority.certificate()),
        ("ca.key", &authority.key()),
        ("kubelet-client.crt", &kubelets.certificate),
        ("kubelet-client.key", &kubelets.key),
        ("api-server.crt", &server.certificate),
        ("api-server.key", &server.key),
        ("service-account.pub", &public),
        ("service-account.key", &private),
    ] {
        let path = folder.join(name);
        fs::write(&path, text).map_err(Error::io(format!("write {}", path.display())))?;
    }
    Ok(authority)
}

/// The API server's flags.
pub(crate) fn api_server_arguments(
    options: &Options,
    folder: &Path,
    audit_log: Option<&Path>,
    etcd_port: u16,
    port: u16,
) -> Vec<String> {
    let mut arguments = vec![
        format!("--etcd-servers=http://127.0.0.1:{etcd_port}"),
        format!("--secure-port={port}"),
        file_flag(folder, "tls-cert-file", "api-server.crt"),
        file_flag(folder, "tls-private-key-file", "api-server.key"),
        file_flag(folder, "client-ca-file", "ca.crt"),
        file_flag(folder, "service-account-key-file", "service-account.pub"),
        file_flag(
            folder,
            "service-account-signing-key-file",
            "service-account.key",
        ),
        "--service-account-issuer=https://kubernetes.default.svc".to_owned(),
        file_flag(folder, "cert-dir", "api-server"),
        "--authorization-mode=Node,RBAC".to_owned(),
        "--service-cluster-ip-range=10.96.0.0/16".to_owned(),
        "--allow-privileged".to_owned(),
        "--profiling=false".to_owned(),
    ];
    match options.address {
        None => arguments.extend([
            "--bind-address=127.0.0.1".to_owned(),
            // Endpoints may not name a loopback address, and nobody here reaches the API server through its service.
            "--advertise-address=192.0.2.1".to_owned(),
            "--endpoint-reconciler-type=none".to_owned(),
        ]),
        Some(address) => arguments.extend([
            "--bind-address=0.0.0.0".to_owned(),
            format!("--advertise-address={address}"),
            file_flag(folder, "kubelet-client-certificate", "kubelet-client.crt"),
            file_flag(folder, "kubelet-client-key", "kubelet-client.key"),
            // The names of nodes mean nothing to this machine.
            "--kubelet-preferred-address-types=InternalIP".to_owned(),
        ]),
    }
    if let Some(log) = audit_log {
        arguments.extend([
            file_flag(folder, "audit-policy-file", "audit-policy.yaml"),
            format!("--audit-log-path={}", log.display()),
            "--audit-log-mode=blocking-strict".to_owned(),
            // MB; a log that is rotated would lose requests.
            "--audit-log-maxsize=1000000".to_owned(),
        ]);
    }
    if options.controllers == Controllers::Off {
        arguments.push("--disable-admission-plugins=ServiceAccount".to_owned());
    }
    arguments.extend(options.feature_gate_flag());
    arguments.extend(options.api_server_flags.iter().cloned());
    arguments
}
