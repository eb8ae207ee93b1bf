//! What an account can launch, and where: types, zones, subnets, security groups, images, snapshots, public parameters.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;

use serde::{Deserialize, Serialize};

/// The account as it is found. The default is documented in the README beside this crate.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Catalogue {
    /// The account's number.
    pub account: String,
    /// The region that requests must be signed for.
    pub region: String,
    /// Availability zones.
    pub zones: Vec<Zone>,
    /// Subnets.
    pub subnets: Vec<Subnet>,
    /// Security groups.
    pub security_groups: Vec<SecurityGroup>,
    /// Images.
    pub images: Vec<Image>,
    /// Snapshots, from which volumes begin.
    pub snapshots: Vec<Snapshot>,
    /// Instance types.
    pub types: Vec<InstanceType>,
    /// Names of the instance profiles that exist; `null` accepts every name.
    pub instance_profiles: Option<Vec<String>>,
    /// Public parameters of SSM, by name.
    pub public_parameters: BTreeMap<String, String>,
}

/// An availability zone.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Zone {
    /// Such as `us-east-2a`.
    pub name: String,
    /// Such as `use2-az1`.
    pub id: String,
}

/// A subnet.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Subnet {
    /// Such as `subnet-0000000000000000a`.
    pub id: String,
    /// The name of its zone.
    pub zone: String,
    /// Its VPC.
    pub vpc: String,
    /// First address of its range.
    pub network: Ipv4Addr,
    /// Length of the range's prefix, 16 to 28.
    pub prefix: u8,
    /// Tags.
    #[serde(default)]
    pub tags: BTreeMap<String, String>,
}

/// A security group.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SecurityGroup {
    /// Such as `sg-00000000000000001`.
    pub id: String,
    /// Its name.
    pub name: String,
    /// Its description.
    pub description: String,
    /// Its VPC.
    pub vpc: String,
    /// Tags.
    #[serde(default)]
    pub tags: BTreeMap<String, String>,
}

/// An image.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Image {
    /// Such as `ami-00000000000133001`.
    pub id: String,
    /// Its name.
    pub name: String,
    /// `x86_64` or `arm64`.
    pub architecture: String,
    /// The device name of its root.
    pub root_device: String,
    /// The least size of its root volume in GiB.
    pub root_gib: u32,
    /// The snapshot behind its root volume.
    pub snapshot: String,
    /// Who made it.
    pub owner: String,
    /// When, such as `2026-10-01T00:00:00.000Z`.
    pub created: String,
}

/// A snapshot.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Snapshot {
    /// Such as `snap-00000000000000001`.
    pub id: String,
    /// GiB.
    pub size: u32,
}

/// An instance type.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct InstanceType {
    /// Such as `r7iz.4xlarge`.
    pub name: String,
    /// Virtual CPUs.
    pub vcpus: u32,
    /// Cores.
    pub cores: u32,
    /// MiB.
    pub memory_mib: u64,
    /// `x86_64` or `arm64`.
    pub architecture: String,
    /// GHz, sustained.
    pub clock_ghz: f64,
    /// Such as `Intel`.
    pub manufacturer: String,
    /// The zones that offer it.
    pub zones: Vec<String>,
    /// Whether it can run with dedicated tenancy.
    pub dedicated: bool,
}

impl Catalogue {
    /// A type by its name.
    pub fn instance_type(&self, name: &str) -> Option<&InstanceType> {
        self.types.iter().find(|of| of.name == name)
    }

    /// A subnet by its id.
    pub fn subnet(&self, id: &str) -> Option<&Subnet> {
        self.subnets.iter().find(|subnet| subnet.id == id)
    }

    /// An image by its id.
    pub fn image(&self, id: &str) -> Option<&Image> {
        self.images.iter().find(|image| image.id == id)
    }

    /// A security group by its id.
    pub fn security_group(&self, id: &str) -> Option<&SecurityGroup> {
        self.security_groups.iter().find(|group| group.id == id)
    }

    /// A snapshot by its id.
    pub fn snapshot(&self, id: &str) -> Option<&Snapshot> {
        self.snapshots.iter().find(|snapshot| snapshot.id == id)
    }

    /// The id of a zone; empty if there is no such zone.
    pub fn zone_id(&self, name: &str) -> &str {
        self.zones
            .iter()
            .find(|zone| zone.name == name)
            .map_or("", |zone| &zone.id)
    }
}

impl Default for Catalogue {
    fn default() -> Self {
        let region = "us-east-2";
        let account = "123456789012";
        let vpc = "vpc-00000000000000001";
        let letters = ["a", "b", "c"];
        let zone_names: Vec<String> = letters.map(|letter| format!("{region}{letter}")).to_vec();
        let mut public_parameters = BTreeMap::new();
        let mut images = Vec::new();
        for minor in 31..=35 {
            for (number, architecture) in [("1", "x86_64"), ("2", "arm64")] {
                let id = format!("ami-00000000000{number}{minor}001");
                let path = format!(
                    "/aws/service/eks/optimized-ami/1.{minor}/amazon-linux-2023/{architecture}/standard/recommended"
                );
                let name =
                    format!("amazon-eks-node-al2023-{architecture}-standard-1.{minor}-v20261001");
                public_parameters.insert(format!("{path}/image_id"), id.clone());
                public_parameters.insert(
                    path,
                    format!(
                        r#"{{"image_id":"{id}","image_name":"{name}","release_version":"1.{minor}.0-20261001","schema_version":"1"}}"#
                    ),
                );
                images.push(image(&id, &name, architecture, "602401143452"));
            }
        }
        let plain = "ami-00000000000002023";
        images.push(image(
            plain,
            "al2023-ami-2023.9.20261001.0-kernel-6.12-x86_64",
            "x86_64",
            "137112412989",
        ));
        public_parameters.insert(
            "/aws/service/ami-amazon-linux-latest/al2023-ami-kernel-default-x86_64".to_owned(),
            plain.to_owned(),
        );
        Self {
            account: account.to_owned(),
            region: region.to_owned(),
            zones: letters
                .iter()
                .zip(1..)
                .map(|(letter, number)| Zone {
                    name: format!("{region}{letter}"),
                    id: format!("use2-az{number}"),
                })
                .collect(),
            subnets: letters
                .iter()
                .zip(1..)
                .map(|(letter, number)| Subnet {
                    id: format!("subnet-0000000000000000{letter}"),
                    zone: format!("{region}{letter}"),
                    vpc: vpc.to_owned(),
                    network: Ipv4Addr::new(10, 0, number * 16, 0),
                    prefix: 20,
                    tags: BTreeMap::new(),
                })
                .collect(),
            security_groups: [
                ("sg-00000000000000001", "halo-nodes", "Nodes of HALO"),
                (
                    "sg-00000000000000002",
                    "default",
                    "default VPC security group",
                ),
            ]
            .map(|(id, name, description)| SecurityGroup {
                id: id.to_owned(),
                name: name.to_owned(),
                description: description.to_owned(),
                vpc: vpc.to_owned(),
                tags: BTreeMap::new(),
            })
            .to_vec(),
            images,
            snapshots: vec![Snapshot {
                id: "snap-00000000000000001".to_owned(),
                size: 100,
            }],
            types: [
                ("r7iz.4xlarge", 16, 131_072, "x86_64", 3.9, "Intel"),
                ("r7iz.8xlarge", 32, 262_144, "x86_64", 3.9, "Intel"),
                ("r8i.4xlarge", 16, 131_072, "x86_64", 3.9, "Intel"),
                ("r8i.8xlarge", 32, 262_144, "x86_64", 3.9, "Intel"),
                ("m7i.large", 2, 8_192, "x86_64", 3.2, "Intel"),
                ("m7i.4xlarge", 16, 65_536, "x86_64", 3.2, "Intel"),
                ("c7i.large", 2, 4_096, "x86_64", 3.2, "Intel"),
                ("c7i.4xlarge", 16, 32_768, "x86_64", 3.2, "Intel"),
                ("m7g.large", 2, 8_192, "arm64", 2.6, "AWS"),
                ("t3.large", 2, 8_192, "x86_64", 2.5, "Intel"),
            ]
            .into_iter()
            .map(
                |(name, vcpus, memory_mib, architecture, clock_ghz, manufacturer)| InstanceType {
                    name: name.to_owned(),
                    vcpus,
                    cores: if architecture == "arm64" {
                        vcpus
                    } else {
                        vcpus / 2
                    },
                    memory_mib,
                    architecture: architecture.to_owned(),
                    clock_ghz,
                    manufacturer: manufacturer.to_owned(),
                    // One type that not every zone offers, for those who ask in the wrong one.
                    zones: if name == "m7g.large" {
                        zone_names.iter().take(2).cloned().collect()
                    } else {
                        zone_names.clone()
                    },
                    dedicated: true,
                },
            )
            .collect(),
            instance_profiles: None,
            public_parameters,
        }
    }
}

fn image(id: &str, name: &str, architecture: &str, owner: &str) -> Image {
    Image {
        id: id.to_owned(),
        name: name.to_owned(),
        architecture: architecture.to_owned(),
        root_device: "/dev/xvda".to_owned(),
        root_gib: 20,
        snapshot: format!("snap-{}", id.trim_start_matches("ami-")),
        owner: owner.to_owned(),
        created: "2026-10-01T00:00:00.000Z".to_owned(),
    }
}
