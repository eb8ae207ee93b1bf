//! What a device is given when it is enrolled.

use halo_receipts::ids::{DeviceId, TenantId};
use halo_receipts::keys::DeviceKey;
use serde::Serialize;
use zeroize::Zeroizing;

/// A device's credential. It holds the device's key: it has no `Debug`, and its JSON belongs on the device alone.
#[derive(Serialize)]
pub struct Credential {
    tenant_id: TenantId,
    device_id: DeviceId,
    device_generation: u32,
    #[serde(serialize_with = "secret")]
    device_key: Zeroizing<String>,
}

fn secret<S: serde::Serializer>(key: &Zeroizing<String>, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(key)
}

impl Credential {
    /// The credential of one device.
    pub fn new(
        tenant_id: TenantId,
        device_id: DeviceId,
        device_generation: u32,
        key: &DeviceKey,
    ) -> Self {
        Self {
            tenant_id,
            device_id,
            device_generation,
            device_key: key.to_hex(),
        }
    }
}
