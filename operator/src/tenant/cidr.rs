//! Blocks of addresses, as network policies name them.

use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

/// An address and a prefix length.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Cidr {
    address: IpAddr,
    length: u8,
}

/// Text that is not a [`Cidr`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not a block of addresses; write one such as 10.0.12.0/24 or fd12::/64")]
pub struct BadCidr(String);

impl Cidr {
    /// The bits of an address, left-aligned, and how many of them the address family has.
    fn bits(address: IpAddr) -> (u128, u8) {
        match address {
            IpAddr::V4(address) => (u128::from(address.to_bits()) << 96, 32),
            IpAddr::V6(address) => (address.to_bits(), 128),
        }
    }

    /// The bits that all addresses of the block share.
    fn prefix(self, length: u8) -> u128 {
        let mask = u128::MAX.checked_shl(128 - u32::from(length)).unwrap_or(0);
        Self::bits(self.address).0 & mask
    }

    /// Whether every address of `other` is one of this block.
    pub fn contains(self, other: Self) -> bool {
        self.address.is_ipv4() == other.address.is_ipv4()
            && self.length <= other.length
            && self.prefix(self.length) == other.prefix(self.length)
    }
}

impl FromStr for Cidr {
    type Err = BadCidr;

    fn from_str(text: &str) -> Result<Self, BadCidr> {
        let bad = || BadCidr(text.to_owned());
        let (address, length) = text.split_once('/').ok_or_else(bad)?;
        let address: IpAddr = address.parse().map_err(|_| bad())?;
        let digits = !length.is_empty() && length.bytes().all(|byte| byte.is_ascii_digit());
        let padded = length.len() > 1 && length.starts_with('0');
        let length: u8 = length.parse().map_err(|_| bad())?;
        if !digits || padded || length > Self::bits(address).1 {
            return Err(bad());
        }
        Ok(Self { address, length })
    }
}

impl fmt::Display for Cidr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.address, self.length)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a failed test panics")]
    use super::*;

    fn cidr(text: &str) -> Cidr {
        text.parse().unwrap()
    }

    #[test]
    fn blocks_hold_what_lies_in_them() {
        for (outer, inner, holds) in [
            ("10.0.0.0/8", "10.1.2.0/24", true),
            ("10.1.2.0/24", "10.0.0.0/8", false),
            ("10.1.2.0/24", "10.1.2.0/24", true),
            ("10.1.2.0/24", "10.1.3.0/24", false),
            ("0.0.0.0/0", "169.254.169.254/32", true),
            ("169.0.0.0/8", "169.254.169.254/32", true),
            ("::/0", "fd00:ec2::254/128", true),
            ("::/0", "10.0.0.0/8", false),
            ("0.0.0.0/0", "fd00::/8", false),
            ("fd00:ec2::/32", "fd00:ec2::254/128", true),
            ("fd00:ec3::/32", "fd00:ec2::254/128", false),
        ] {
            assert_eq!(cidr(outer).contains(cidr(inner)), holds, "{outer} {inner}");
        }
    }

    #[test]
    fn other_texts_are_refused() {
        for bad in [
            "",
            "10.0.0.0",
            "10.0.0.0/",
            "10.0.0.0/33",
            "10.0.0.0/+8",
            "10.0.0.0/08",
            "300.0.0.0/8",
            "::/129",
            "10.0.0/8",
            ":::/8",
            "fd00::/8/8",
        ] {
            assert!(bad.parse::<Cidr>().is_err(), "{bad}");
        }
        assert_eq!(cidr("fd00::/8").to_string(), "fd00::/8");
    }
}
