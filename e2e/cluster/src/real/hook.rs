//! The machine as its surroundings see it: started as one process, it is a node; ended, nothing of it is left.

use std::{
    collections::BTreeMap,
    env,
    fs::{self, File},
    io,
    net::Ipv4Addr,
    path::Path,
    process::Stdio,
};

use base64::{Engine as _, engine::general_purpose::STANDARD as BASE64};
use tokio::{
    process::Command,
    signal::unix::{SignalKind, signal},
};

use super::{
    cgroups,
    cluster::{IMAGES, INSTANCE_IMAGES, Joined},
    network,
    node::{self, Machine},
    user_data::Join,
};
use crate::{
    access::{self, Proof},
    error::Error,
    pki::Authority,
};

/// Reaps what the machine's programs leave behind, as the first process of its namespace must.
const INIT: &str = r#""$@"; exit "$?""#;

/// The hidden subcommand that becomes [`super::node_init`].
const NODE_INIT: &str = "node-init";

/// Runs a machine until SIGTERM or SIGINT, or until it fails. With the environment of the AWS emulator's boot hook it is that instance,
/// and joins as its user data says; otherwise it is the node `name` of the cluster.
///
/// # Errors
/// It could not be set up, or it ended by itself.
pub async fn run_node(joined: &Path, name: Option<String>) -> Result<(), Error> {
    let mut terminate = signal(SignalKind::terminate()).map_err(Error::io("wait for SIGTERM"))?;
    let mut interrupt = signal(SignalKind::interrupt()).map_err(Error::io("wait for SIGINT"))?;
    let joined = Joined::read(joined)?;
    let slot = Slot::take(&joined)?;
    let machine = match name {
        Some(name) => own(&joined, &slot, name),
        None => instance(&joined, &slot)?,
    };
    let ended = run(&joined, &machine, async {
        tokio::select! { _ = terminate.recv() => {} _ = interrupt.recv() => {} }
    })
    .await;
    clean(&machine)?;
    drop(slot);
    ended
}

async fn run(
    joined: &Joined,
    machine: &Machine,
    end: impl Future<Output = ()>,
) -> Result<(), Error> {
    cgroups::make(&machine.cgroup).map_err(Error::io(format!("make {}", machine.cgroup)))?;
    network::add(machine.address).map_err(Error::io("add the node's address"))?;
    let spec = prepare(joined, machine)?;
    let program = env::current_exe().map_err(Error::io("find this program"))?;
    let mut child = Command::new("unshare")
        .args(["--mount", "--pid", "--fork", "--kill-child=KILL"])
        .args(["--mount-proc", "/bin/sh", "-c", INIT, "init"])
        .arg(program)
        .arg(NODE_INIT)
        .arg(spec)
        .stdin(Stdio::null())
        .kill_on_drop(true)
        .spawn()
        .map_err(Error::io("start unshare"))?;
    tokio::select! {
        () = end => {
            // As if the plug was pulled: with unshare goes the namespace's first process, and with that all of it.
            child.kill().await.map_err(Error::io("end the machine"))
        }
        status = child.wait() => {
            let status = status.map_err(Error::io("wait for the machine"))?;
            Err(Error::Exited {
                program: machine.name.clone(),
                status,
                log: format!("see {}", machine.logs.display()),
            })
        }
    }
}

/// Writes what the machine's programs read, and returns the file with all of it.
fn prepare(joined: &Joined, machine: &Machine) -> Result<std::path::PathBuf, Error> {
    for folder in [&machine.folder, &machine.logs] {
        fs::create_dir_all(folder).map_err(Error::io(format!("create {}", folder.display())))?;
    }
    let authority = Authority::read(&joined.authority)?;
    let own = authority.node(&machine.name, machine.address)?;
    let kubeconfig = access::kubeconfig(
        &joined.endpoint,
        authority.certificate(),
        &Proof::Certificate(authority.node(&machine.name, machine.address)?),
    );
    let spec = machine.folder.join("machine.json");
    for (name, text) in [
        ("ca.crt", authority.certificate()),
        ("kubelet.crt", &own.certificate),
        ("kubelet.key", &own.key),
        ("kubeconfig", &kubeconfig.to_string()),
        ("machine.json", &serde_json::to_string(machine)?),
    ] {
        let path = machine.folder.join(name);
        fs::write(&path, text).map_err(Error::io(format!("write {}", path.display())))?;
    }
    Ok(spec)
}

fn clean(machine: &Machine) -> Result<(), Error> {
    cgroups::remove(&machine.cgroup).map_err(Error::io(format!("remove {}", machine.cgroup)))?;
    network::remove(machine.address, &machine.bridge());
    let folder = &machine.folder;
    match fs::remove_dir_all(folder) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(Error::io(format!("remove {}", folder.display()))(error))
        }
        _ => Ok(()),
    }
}

/// A number that no other machine of the run has meanwhile. The lock goes with the process.
struct Slot {
    index: u8,
    _lock: File,
}

impl Slot {
    fn take(joined: &Joined) -> Result<Self, Error> {
        let folder = joined.folder.join("slots");
        fs::create_dir_all(&folder).map_err(Error::io(format!("create {}", folder.display())))?;
        for index in 0..=200 {
            let path = folder.join(index.to_string());
            let lock =
                File::create(&path).map_err(Error::io(format!("create {}", path.display())))?;
            if lock.try_lock().is_ok() {
                // What a machine that was killed left there.
                network::remove(Ipv4Addr::UNSPECIFIED, &node::bridge(index));
                return Ok(Self { index, _lock: lock });
            }
        }
        Err(Error::io("take a number for a machine")(io::Error::other(
            "200 machines run",
        )))
    }
}

fn machine(joined: &Joined, slot: &Slot, name: String, address: Ipv4Addr) -> Machine {
    Machine {
        index: slot.index,
        address,
        provider_id: String::new(),
        labels: String::new(),
        taints: String::new(),
        cgroup: format!("{}/{name}", joined.run),
        folder: joined.folder.join("nodes").join(&name),
        logs: joined.logs.join("nodes").join(&name),
        images: joined.folder.join(IMAGES),
        kubelet: joined.kubelet.clone(),
        name_server: joined.name_server,
        name,
    }
}

/// A node of the cluster's own.
fn own(joined: &Joined, slot: &Slot, name: String) -> Machine {
    let address = Ipv4Addr::new(10, 88, 254, slot.index.saturating_add(1));
    machine(joined, slot, name, address)
}

/// An instance that boots.
fn instance(joined: &Joined, slot: &Slot) -> Result<Machine, Error> {
    let variable = |name: &str| {
        env::var(name).map_err(|_| {
            let missing = format!("{name} is not set; this is the AWS emulator's boot hook");
            Error::io("boot")(io::Error::other(missing))
        })
    };
    let user_data = variable("USER_DATA")?;
    let join = Join::read(Path::new(&user_data)).map_err(Error::io("read the user data"))?;
    // An instance that was told another authority, or another cluster, does not get in.
    let authority = Authority::read(&joined.authority)?;
    if join.endpoint != joined.endpoint || join.authority != BASE64.encode(authority.certificate())
    {
        let why = format!(
            "{} is not this cluster, or not its authority",
            join.endpoint
        );
        return Err(Error::io("join")(io::Error::other(why)));
    }
    let address = variable("PRIVATE_IP")?;
    let address = address.parse().map_err(|_| {
        let why = format!("PRIVATE_IP={address} is no address");
        Error::io("boot")(io::Error::other(why))
    })?;
    let zone = variable("ZONE")?;
    let mut machine = machine(joined, slot, variable("PRIVATE_DNS_NAME")?, address);
    machine.provider_id = format!("aws:///{zone}/{}", variable("INSTANCE_ID")?);
    machine.images = joined.folder.join(INSTANCE_IMAGES);
    machine.taints = join.taints;
    let labels = BTreeMap::from([
        ("topology.kubernetes.io/zone", zone),
        (
            "node.kubernetes.io/instance-type",
            variable("INSTANCE_TYPE")?,
        ),
    ]);
    machine.labels = labels
        .iter()
        .map(|(key, value)| format!("{key}={value}"))
        .chain((!join.labels.is_empty()).then_some(join.labels))
        .collect::<Vec<_>>()
        .join(",");
    Ok(machine)
}
