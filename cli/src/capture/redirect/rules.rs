//! The namespace's one nftables table: all TCP to the sidecar, names to its responder, nothing else.

use super::{DNS_PORT, GATEWAY_V4, GATEWAY_V6, Step, Unsupported};
use crate::capture::nft::{self, NftError};

/// Loopback is redirected too: the host's loopback services are reached through the sidecar. UDP among the namespace's
/// own loopback addresses stays inside and may go; what else there is is rejected, not dropped, so that clients of QUIC
/// fall back at once. Names asked of the gateway itself are named twice: to lead them where they go anyway sets no mark.
fn table(port_v4: u16, port_v6: Option<u16>) -> String {
    let v6 = port_v6.map_or(String::new(), |port| {
        format!(
            "    meta nfproto ipv6 meta l4proto {{ tcp, udp }} th dport {DNS_PORT} dnat ip6 to [{GATEWAY_V6}]:{DNS_PORT}
    meta nfproto ipv6 meta l4proto tcp dnat ip6 to [{GATEWAY_V6}]:{port}
"
        )
    });
    format!(
        "table inet kybernis {{
  chain capture {{
    type nat hook output priority -100; policy accept;
    meta nfproto ipv4 meta l4proto {{ tcp, udp }} th dport {DNS_PORT} dnat ip to {GATEWAY_V4}:{DNS_PORT}
    meta nfproto ipv4 meta l4proto tcp dnat ip to {GATEWAY_V4}:{port_v4}
{v6}  }}
  chain fence {{
    type filter hook output priority 0; policy drop;
    meta l4proto tcp accept
    ct status dnat accept
    ip daddr {GATEWAY_V4} udp dport {DNS_PORT} accept
    ip6 daddr {GATEWAY_V6} udp dport {DNS_PORT} accept
    ct state established,related accept
    ip saddr 127.0.0.0/8 ip daddr 127.0.0.0/8 accept
    ip6 saddr ::1 ip6 daddr ::1 accept
    reject with icmpx admin-prohibited
  }}
}}
"
    )
}

/// Loads the table. The caller has all rights over its network namespace.
pub(super) fn load(port_v4: u16, port_v6: Option<u16>) -> Result<(), Unsupported> {
    nft::load(&table(port_v4, port_v6)).map_err(|error| match error {
        NftError::Missing => Unsupported::NftMissing,
        NftError::Io(error) => Unsupported::io(Step::Rules, &error),
        NftError::Said(said) => Unsupported::said(Step::Rules, &said),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn without_ipv6_nothing_is_led_to_its_gateway() {
        assert!(!table(7, None).contains("dnat ip6"));
        assert!(table(7, Some(9)).contains("dnat ip6 to [fd6b:7962::1]:9\n"));
    }
}
