//! User data: how an instance becomes a node, and mounts its data volume.

use halo_crds::pool::{DataVolume, Ec2Pool};
use halo_crds::{POOL_LABEL, SUBSTRATE_LABEL, TENANT_LABEL};

use super::launch::Identity;
use crate::settings::Settings;

/// What EC2 takes, in bytes before encoding.
pub const MAX_BYTES: usize = 16_384;

/// Why user data cannot be written.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum UserDataError {
    /// A placeholder that does not exist.
    #[error(
        "userData.template: there is no {{{{{0}}}}}; there are clusterName, apiServerEndpoint, certificateAuthority, serviceCidr, \
         nodeLabels, nodeTaints, dataDevice and dataMountPath"
    )]
    UnknownPlaceholder(String),
    /// A placeholder that does not end.
    #[error("userData.template: {{{{ without }}}} after it: {0:?}")]
    Unclosed(String),
    /// A placeholder of the data volume in a pool that has none.
    #[error("userData.template names {{{{{0}}}}}, and nodePool.ec2.dataVolume is not set")]
    NoDataVolume(String),
    /// The operator was not told how nodes join.
    #[error(
        "the operator was not told the cluster's {0}, which nodes need to join: set it in the operator's flags"
    )]
    NoJoin(&'static str),
    /// Too long for EC2.
    #[error("user data of {0} bytes; EC2 takes {MAX_BYTES}")]
    TooLong(usize),
}

/// The labels of a node of the pool, as kubelet takes them.
pub fn node_labels(identity: &Identity) -> String {
    let Identity {
        uid, name, tenant, ..
    } = identity;
    format!("{POOL_LABEL}={uid},{SUBSTRATE_LABEL}={name},{TENANT_LABEL}={tenant}")
}

/// The taint that keeps other pods off the nodes of the pool, as kubelet takes it.
pub fn node_taints(identity: &Identity) -> String {
    format!("{POOL_LABEL}={}:NoSchedule", identity.uid)
}

/// The user data of a pool.
///
/// # Errors
/// A template's placeholder cannot be filled in, the operator was not told how nodes join, or the text is too long.
pub fn render(
    identity: &Identity,
    spec: &Ec2Pool,
    settings: &Settings,
) -> Result<String, UserDataError> {
    let text = match &spec.user_data.template {
        Some(template) => fill(template, identity, spec, settings)?,
        None => eks_al2023(identity, spec, settings)?,
    };
    if text.len() > MAX_BYTES {
        return Err(UserDataError::TooLong(text.len()));
    }
    Ok(text)
}

fn fill(
    template: &str,
    identity: &Identity,
    spec: &Ec2Pool,
    settings: &Settings,
) -> Result<String, UserDataError> {
    let mut out = String::with_capacity(template.len());
    let mut rest = template;
    while let Some((before, after)) = rest.split_once("{{") {
        out.push_str(before);
        let Some((name, tail)) = after.split_once("}}") else {
            return Err(UserDataError::Unclosed(after.chars().take(32).collect()));
        };
        out.push_str(&value(name.trim(), identity, spec, settings)?);
        rest = tail;
    }
    out.push_str(rest);
    Ok(out)
}

fn value(
    name: &str,
    identity: &Identity,
    spec: &Ec2Pool,
    settings: &Settings,
) -> Result<String, UserDataError> {
    let join = &settings.join;
    let data = |of: fn(&DataVolume) -> &String| {
        let volume = spec.data_volume.as_ref();
        let volume = volume.ok_or_else(|| UserDataError::NoDataVolume(name.to_owned()))?;
        Ok(of(volume).clone())
    };
    Ok(match name {
        "clusterName" => settings.cluster.clone(),
        "apiServerEndpoint" => told("API server endpoint", &join.endpoint)?,
        "certificateAuthority" => told("certificate authority", &join.certificate_authority)?,
        "serviceCidr" => told("service network", &join.service_cidr)?,
        "nodeLabels" => node_labels(identity),
        "nodeTaints" => node_taints(identity),
        "dataDevice" => data(|volume| &volume.device)?,
        "dataMountPath" => data(|volume| &volume.mount_path)?,
        unknown => return Err(UserDataError::UnknownPlaceholder(unknown.to_owned())),
    })
}

fn told(what: &'static str, value: &str) -> Result<String, UserDataError> {
    if value.is_empty() {
        return Err(UserDataError::NoJoin(what));
    }
    Ok(value.to_owned())
}

/// nodeadm's NodeConfig (awslabs/amazon-eks-ami, nodeadm) in a MIME document, and a shell script if there is a volume to mount.
fn eks_al2023(
    identity: &Identity,
    spec: &Ec2Pool,
    settings: &Settings,
) -> Result<String, UserDataError> {
    let join = &settings.join;
    let cluster = told("name", &settings.cluster)?;
    let endpoint = told("API server endpoint", &join.endpoint)?;
    let authority = told("certificate authority", &join.certificate_authority)?;
    let cidr = told("service network", &join.service_cidr)?;
    let (labels, taints) = (node_labels(identity), node_taints(identity));
    let script = spec.data_volume.as_ref().map(mount_script);
    let script = script.map_or(String::new(), |script| {
        format!("--HALO\nContent-Type: text/x-shellscript; charset=\"us-ascii\"\n\n{script}\n")
    });
    // JSON strings are YAML strings.
    let quoted = |text: &str| serde_json::Value::from(text).to_string();
    Ok(format!(
        "MIME-Version: 1.0
Content-Type: multipart/mixed; boundary=\"HALO\"

--HALO
Content-Type: application/node.eks.aws

apiVersion: node.eks.aws/v1alpha1
kind: NodeConfig
spec:
  cluster:
    name: {cluster}
    apiServerEndpoint: {endpoint}
    certificateAuthority: {authority}
    cidr: {cidr}
  kubelet:
    flags:
      - {labels}
      - {taints}

{script}--HALO--
",
        cluster = quoted(&cluster),
        endpoint = quoted(&endpoint),
        authority = quoted(&authority),
        cidr = quoted(&cidr),
        labels = quoted(&format!("--node-labels={labels}")),
        taints = quoted(&format!("--register-with-taints={taints}")),
    ))
}

/// A unit that mounts the data volume at every boot before kubelet starts, so that no pod sees an empty folder. The boot itself does not
/// wait. A volume is formatted only if it has no signature at all and was not made from a snapshot.
fn mount_script(volume: &DataVolume) -> String {
    let (device, path) = (shell(&volume.device), shell(&volume.mount_path));
    let format = if volume.snapshot.is_some() {
        "echo \"halo-data: no filesystem on $DEVICE, which comes from a snapshot: nothing is written to it\" >&2; exit 1"
    } else {
        "mkfs.ext4 -q -m 0 -L halo-data \"$DEV\""
    };
    format!(
        r#"#!/bin/bash
set -euo pipefail
install -d -m 0755 /usr/local/sbin /etc/systemd/system/kubelet.service.d
cat > /usr/local/sbin/halo-data <<'SCRIPT'
#!/bin/bash
set -euo pipefail
DEVICE={device}
TARGET={path}
find_device() {{
  if [ -b "$DEVICE" ]; then readlink -f "$DEVICE"; return; fi
  local short="${{DEVICE#/dev/}}" dev name
  for dev in /dev/nvme*n1; do
    [ -b "$dev" ] || continue
    name="$(ebsnvme-id --block-dev "$dev" 2>/dev/null || true)"
    if [ "${{name#/dev/}}" = "$short" ]; then echo "$dev"; return; fi
  done
}}
until DEV="$(find_device)" && [ -n "$DEV" ]; do sleep 1; done
status=0
blkid -p "$DEV" >/dev/null 2>&1 || status=$?
if [ "$status" -eq 2 ]; then
  {format}
elif [ "$status" -ne 0 ]; then
  echo "halo-data: cannot tell what is on $DEVICE (blkid: $status): nothing is written to it" >&2; exit 1
fi
mkdir -p "$TARGET"
mountpoint -q "$TARGET" || mount -o noatime,nofail "$DEV" "$TARGET"
SCRIPT
chmod 0755 /usr/local/sbin/halo-data
cat > /etc/systemd/system/halo-data.service <<'UNIT'
[Unit]
Description=Mount the data volume of HALO
Before=kubelet.service
[Service]
Type=oneshot
RemainAfterExit=yes
TimeoutStartSec=infinity
ExecStart=/usr/local/sbin/halo-data
[Install]
WantedBy=multi-user.target
UNIT
cat > /etc/systemd/system/kubelet.service.d/10-halo-data.conf <<'UNIT'
[Unit]
Requires=halo-data.service
After=halo-data.service
UNIT
systemctl daemon-reload
systemctl enable halo-data.service
systemctl start --no-block halo-data.service
"#
    )
}

/// A word of the shell, whatever is in it.
fn shell(text: &str) -> String {
    format!("'{}'", text.replace('\'', r"'\''"))
}
