//! Which hosts and addresses are near, and which belong to the public internet.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::proxy;
use super::url::ip_literal;

/// Hosts that may speak plain HTTP without `insecure`: this machine, `*.local`, and private IPv4
/// addresses. Everything else is HTTPS only.
pub(super) fn is_near(host: &str) -> bool {
    proxy::is_loopback(host)
        || host.trim_end_matches('.').ends_with(".local")
        || matches!(ip_literal(host), Some(IpAddr::V4(address)) if address.is_private())
}

/// Whether secrets sent to `host` in plain stay on this machine. `*.localhost` does not count: not
/// every resolver keeps it here.
pub(crate) fn is_this_machine(host: &str) -> bool {
    match ip_literal(host) {
        Some(address) => address.to_canonical().is_loopback(),
        None => host.trim_end_matches('.') == "localhost",
    }
}

/// Whether a connection to `address` stays on this machine. Linux takes the unspecified address
/// for loopback.
pub(super) fn is_loopback(address: IpAddr) -> bool {
    let address = embedded(address);
    address.is_loopback() || address.is_unspecified()
}

pub(super) fn is_link_local(address: IpAddr) -> bool {
    match embedded(address) {
        IpAddr::V4(address) => address.is_link_local(),
        IpAddr::V6(address) => address.is_unicast_link_local(),
    }
}

/// Whether an address belongs to the public internet (the registries of RFC 6890 list the ones
/// that do not).
pub(super) fn is_public(address: IpAddr) -> bool {
    match embedded(address) {
        IpAddr::V4(address) => {
            let [a, b, c, _] = address.octets();
            // Carriers (RFC 6598), protocol assignments (RFC 6890), benchmarks (RFC 2544).
            let special = (a == 100 && (64..128).contains(&b))
                || (a, b, c) == (192, 0, 0)
                || (a == 198 && matches!(b, 18 | 19));
            !(address.is_private()
                || address.is_loopback()
                || address.is_link_local()
                || address.is_multicast()
                || address.is_broadcast()
                || address.is_documentation()
                || a == 0
                || a >= 240
                || special)
        }
        IpAddr::V6(address) => {
            let [a, b, c, ..] = address.segments();
            // Documentation (RFC 3849), discard-only (RFC 6666), local NAT64 (RFC 8215), the
            // old site-local addresses (RFC 3879).
            let special = (a, b) == (0x2001, 0xdb8)
                || (a, b) == (0x100, 0)
                || (a, b, c) == (0x64, 0xff9b, 1)
                || a & 0xffc0 == 0xfec0;
            !(address.is_loopback()
                || address.is_unspecified()
                || address.is_multicast()
                || address.is_unique_local()
                || address.is_unicast_link_local()
                || special)
        }
    }
}

/// Whether `host` is an address literal that only this machine or its neighbours mean.
pub(crate) fn is_private_literal(host: &str) -> bool {
    proxy::is_loopback(host) || ip_literal(host).is_some_and(|address| !is_public(address))
}

/// The IPv4 address that an IPv6 address stands for: mapped and compatible ones, NAT64
/// (RFC 6052) and 6to4 (RFC 3056). A translator on the way leads there.
fn embedded(address: IpAddr) -> IpAddr {
    let IpAddr::V6(six) = address.to_canonical() else {
        return address.to_canonical();
    };
    let four = |high: u16, low: u16| {
        let [a, b] = high.to_be_bytes();
        let [c, d] = low.to_be_bytes();
        IpAddr::V4(Ipv4Addr::new(a, b, c, d))
    };
    match six.segments() {
        [0x64, 0xff9b, 0, 0, 0, 0, high, low] => four(high, low),
        [0x2002, high, low, ..] => four(high, low),
        [0, 0, 0, 0, 0, 0, high, low] if six != Ipv6Addr::LOCALHOST && high != 0 => four(high, low),
        _ => address,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_that_are_not_public_are_known() {
        for (address, public) in [
            ("8.8.8.8", true),
            ("2606:4700::1", true),
            ("10.0.0.1", false),
            ("172.16.0.1", false),
            ("192.168.1.1", false),
            ("100.64.0.1", false),
            ("192.0.0.8", false),
            ("198.18.0.1", false),
            ("203.0.113.7", false),
            ("127.0.0.1", false),
            ("169.254.169.254", false),
            ("0.0.0.0", false),
            ("255.255.255.255", false),
            ("224.0.0.1", false),
            ("::1", false),
            ("::", false),
            ("fe80::1", false),
            ("fec0::1", false),
            ("fd00::1", false),
            ("2001:db8::1", false),
            ("::ffff:127.0.0.1", false),
            ("::ffff:10.0.0.1", false),
            ("::10.0.0.1", false),
            ("64:ff9b::a00:1", false),
            ("64:ff9b::808:808", true),
            ("2002:a9fe:a9fe::1", false),
        ] {
            assert_eq!(is_public(address.parse().unwrap()), public, "{address}");
        }
    }

    #[test]
    fn loopback_and_link_local_are_known_in_every_disguise() {
        for address in ["127.8.0.1", "0.0.0.0", "::1", "::", "::ffff:127.0.0.1"] {
            assert!(is_loopback(address.parse().unwrap()), "{address}");
        }
        for address in [
            "169.254.1.1",
            "fe80::1",
            "::ffff:169.254.1.1",
            "64:ff9b::a9fe:1",
        ] {
            assert!(is_link_local(address.parse().unwrap()), "{address}");
        }
    }

    #[test]
    fn only_near_hosts_may_speak_plain_http() {
        for host in [
            "localhost",
            "a.localhost",
            "127.0.0.1",
            "[::1]",
            "nas.local",
            "10.1.2.3",
        ] {
            assert!(is_near(host), "{host}");
        }
        for host in [
            "example.com",
            "11.1.2.3",
            "[fd00::1]",
            "localhost.example.com",
            "local",
        ] {
            assert!(!is_near(host), "{host}");
        }
    }

    #[test]
    fn private_literals_are_known_by_name_and_number() {
        for host in [
            "localhost",
            "LOCALHOST.",
            "a.localhost",
            "10.0.0.1",
            "[fe80::1]",
        ] {
            let host = host.to_ascii_lowercase();
            assert!(is_private_literal(&host), "{host}");
        }
        assert!(!is_private_literal("example.com"));
    }
}
