//! The network of a run: one bridge, which carries the addresses of the control plane and of every node.

use std::{io, net::Ipv4Addr, process::Command};

/// The bridge. An empty one is up and reachable, and no other kind of interface is needed.
const BRIDGE: &str = "halo0";

/// Runs `ip` and fails with what it says.
fn ip(arguments: &[&str]) -> io::Result<()> {
    let output = Command::new("ip").args(arguments).output()?;
    if output.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&output.stderr);
    Err(io::Error::other(format!(
        "ip {}: {}",
        arguments.join(" "),
        said.trim()
    )))
}

/// Sets up the namespace that the caller is in.
pub(super) fn set_up(address: Ipv4Addr) -> io::Result<()> {
    ip(&["link", "set", "lo", "up"])?;
    ip(&["link", "add", BRIDGE, "type", "bridge"])?;
    ip(&["addr", "add", &format!("{address}/24"), "dev", BRIDGE])?;
    ip(&["link", "set", BRIDGE, "up"])?;
    // Programs that ask which way they would reach the world find a way.
    ip(&["route", "add", "default", "dev", BRIDGE])?;
    std::fs::write("/proc/sys/net/ipv4/ip_forward", "1")
}

/// Adds a node's address.
pub(super) fn add(address: Ipv4Addr) -> io::Result<()> {
    ip(&["addr", "replace", &format!("{address}/32"), "dev", BRIDGE])
}

/// Removes a node's address and the bridge of its pods.
pub(super) fn remove(address: Ipv4Addr, pods: &str) {
    // What is not there is what was wanted.
    let _ = ip(&["addr", "del", &format!("{address}/32"), "dev", BRIDGE]);
    let _ = ip(&["link", "del", pods]);
}
