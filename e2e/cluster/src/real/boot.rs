//! What happens on a machine that boots: containerd, its images, kubelet. It runs in process and mount namespaces of its own, so that
//! everything ends, and is unmounted, with their first process.

use std::{
    fs::{self, File},
    io,
    os::unix::net::UnixStream,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use super::{node::Machine, oci};

/// How long containerd may take to listen.
const LISTENS: Duration = Duration::from_secs(60);

/// Between two looks.
const PAUSE: Duration = Duration::from_millis(10);

/// Before a kubelet that ended is started again, as a service manager would.
const RESTART: Duration = Duration::from_secs(1);

/// The second process of a machine, after the one that reaps: sets it up from the file `machine` and keeps its kubelet running.
/// Returns only with an error.
///
/// # Errors
/// Something does not start, or containerd ends.
pub fn node_init(machine: &Path) -> io::Result<()> {
    let machine: Machine = serde_json::from_slice(&fs::read(machine)?)?;
    // Folders that programs use whatever they are told. A machine has them to itself.
    for path in ["/run", "/var/lib", "/var/log"] {
        mount_memory(path)?;
    }
    let mut containerd = spawn(
        &machine,
        "containerd",
        Command::new("containerd").arg("--config").arg(write(
            &machine,
            "containerd.toml",
            &machine.containerd_config(),
        )?),
    )?;
    fs::create_dir_all(machine.folder.join("cni"))?;
    write(
        &machine,
        "cni/10-pods.conflist",
        &machine.cni_config().to_string(),
    )?;
    listens(&mut containerd, &machine.socket())?;
    import_all(&machine)?;
    let config = write(
        &machine,
        "kubelet.json",
        &machine.kubelet_config().to_string(),
    )?;
    loop {
        let mut kubelet = Command::new(&machine.kubelet);
        kubelet
            .arg("--config")
            .arg(&config)
            .arg("--kubeconfig")
            .arg(machine.folder.join("kubeconfig"))
            .arg("--root-dir")
            .arg(machine.folder.join("kubelet"))
            .arg(format!("--hostname-override={}", machine.name))
            .arg(format!("--node-ip={}", machine.address))
            .arg(format!("--node-labels={}", machine.labels))
            .arg(format!("--register-with-taints={}", machine.taints));
        let mut kubelet = spawn(&machine, "kubelet", &mut kubelet)?;
        while kubelet.try_wait()?.is_none() {
            if let Some(status) = containerd.try_wait()? {
                return Err(io::Error::other(format!("containerd ended ({status})")));
            }
            thread::sleep(PAUSE * 10);
        }
        thread::sleep(RESTART);
    }
}

fn write(machine: &Machine, name: &str, text: &str) -> io::Result<PathBuf> {
    let path = machine.folder.join(name);
    fs::write(&path, text)?;
    Ok(path)
}

fn spawn(machine: &Machine, name: &str, command: &mut Command) -> io::Result<Child> {
    let path = machine.logs.join(format!("{name}.log"));
    let log = File::options().create(true).append(true).open(path)?;
    command
        .stdin(Stdio::null())
        .stdout(log.try_clone()?)
        .stderr(log)
        .spawn()
        .map_err(|error| io::Error::new(error.kind(), format!("{name}: {error}")))
}

fn mount_memory(path: &str) -> io::Result<()> {
    let arguments = ["-t", "tmpfs", "-o", "mode=755", "tmpfs", path];
    let status = Command::new("mount").args(arguments).status()?;
    if status.success() {
        Ok(())
    } else {
        Err(io::Error::other(format!("mount {path}: {status}")))
    }
}

/// A kubelet does not wait for containerd: it ends.
fn listens(containerd: &mut Child, socket: &Path) -> io::Result<()> {
    let started = Instant::now();
    while UnixStream::connect(socket).is_err() {
        if let Some(status) = containerd.try_wait()? {
            return Err(io::Error::other(format!("containerd ended ({status})")));
        }
        if started.elapsed() > LISTENS {
            return Err(io::Error::other("containerd does not listen"));
        }
        thread::sleep(PAUSE);
    }
    Ok(())
}

fn import_all(machine: &Machine) -> io::Result<()> {
    let pause = machine.folder.join("pause.tar");
    oci::write(&pause, oci::PAUSE, &super::elf::pause())?;
    let mut archives = vec![pause];
    for entry in fs::read_dir(&machine.images)? {
        let path = entry?.path();
        if path.extension().is_some_and(|extension| extension == "tar") {
            archives.push(path);
        }
    }
    let imports: Vec<(PathBuf, Child)> = archives
        .into_iter()
        .map(|archive| {
            let import = Command::new("ctr")
                .arg("--address")
                .arg(machine.socket())
                .args(["--namespace", "k8s.io", "images", "import"])
                .arg(&archive)
                .stdin(Stdio::null())
                .stdout(Stdio::null())
                .spawn()?;
            Ok((archive, import))
        })
        .collect::<io::Result<_>>()?;
    for (archive, mut import) in imports {
        let status = import.wait()?;
        if !status.success() {
            let archive = archive.display();
            return Err(io::Error::other(format!("import of {archive}: {status}")));
        }
    }
    Ok(())
}
