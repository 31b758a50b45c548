//! Rules as tools print them, and what must be said of each.

use cardea_proto::posture::Reading;

use super::*;
use crate::probe::testing::{Tree, best_grade, found};

const NFT_DROP: &str = "table inet filter {
	chain input {
		type filter hook input priority filter; policy drop;
		ct state established,related accept
		iif \"lo\" accept
		tcp dport { 22,
			    80 } accept
	}

	chain forward {
		type filter hook forward priority filter; policy accept;
	}
}
";

const NFT_OPEN: &str = "table inet filter {
	set banned {
		type ipv4_addr
	}

	chain input {
		type filter hook input priority filter; policy accept;
		ip saddr @banned drop
	}

	chain forward {
		type filter hook forward priority filter; policy drop;
	}
}
";

const NFT_FIREWALLD: &str = "table inet firewalld {
	chain filter_INPUT {
		type filter hook input priority filter + 10; policy accept;
		ct state { established, related } accept
		iifname \"lo\" accept
		ct state invalid drop
		jump filter_INPUT_ZONES
		reject with icmpx admin-prohibited
	}

	chain filter_INPUT_ZONES {
		goto filter_IN_public
	}

	chain filter_IN_public {
		jump filter_IN_public_allow
	}

	chain filter_IN_public_allow {
		tcp dport 22 accept
	}
}
";

const NFT_UFW_V4: &str = "table ip filter {
	chain INPUT {
		type filter hook input priority filter; policy drop;
		counter packets 10 bytes 1400 jump ufw-before-input
	}

	chain ufw-before-input {
		iifname \"lo\" counter packets 0 bytes 0 accept
	}
}
";

#[test]
fn a_policy_that_drops_is_on() {
    check(nft(NFT_DROP), Reading::Value(Value::Bool(true)));
}

#[test]
fn a_rule_for_some_packets_and_a_policy_elsewhere_are_not() {
    check(nft(NFT_OPEN), Reading::Value(Value::Bool(false)));
    check(nft(""), Reading::Value(Value::Bool(false)));
}

#[test]
fn a_dormant_table_keeps_nothing_out() {
    let flagged = |flags: &str| NFT_DROP.replacen("{\n", &format!("{{\n\tflags {flags}\n\n"), 1);
    for off in ["dormant", "owner,dormant", "dormant, owner", "dormant;"] {
        check(nft(&flagged(off)), Reading::Value(Value::Bool(false)));
    }
    check(nft(&flagged("owner")), Reading::Value(Value::Bool(true)));
    let both = format!(
        "{}{}",
        flagged("dormant"),
        NFT_DROP.replace("filter {", "other {")
    );
    check(nft(&both), Reading::Value(Value::Bool(true)));
}

#[test]
fn a_table_with_an_owner_is_read_like_any_other() {
    let owned = NFT_FIREWALLD.replacen(
        "{\n",
        "{ # progname firewalld\n\tflags owner,persist\n\n",
        1,
    );
    check(nft(&owned), Reading::Value(Value::Bool(true)));
}

#[test]
fn a_last_rule_that_rejects_all_is_on() {
    check(nft(NFT_FIREWALLD), Reading::Value(Value::Bool(true)));
}

#[test]
fn an_accept_of_everything_before_it_is_not() {
    let open = NFT_FIREWALLD.replace("jump filter_IN_public_allow", "counter accept");
    check(nft(&open), Reading::Value(Value::Bool(false)));
    let logged = NFT_OPEN.replace(
        "ip saddr @banned drop",
        "log prefix \"x: \" level warn drop",
    );
    check(nft(&logged), Reading::Value(Value::Bool(true)));
}

#[test]
fn one_family_is_not_both() {
    let on_v4 = || nft(NFT_UFW_V4);
    let lo = "00000000000000000000000000000001 01 80 10 80 lo\n";
    let eth = "fe800000000000000000000000000001 02 40 20 80 eth0\n";
    check(on_v4(), Reading::Value(Value::Bool(true)));
    check(
        on_v4().file("/proc/net/if_inet6", lo),
        Reading::Value(Value::Bool(true)),
    );
    let v6 = format!("{lo}{eth}");
    check(
        on_v4().file("/proc/net/if_inet6", &v6),
        Reading::Value(Value::Bool(false)),
    );
    let both = format!(
        "{NFT_UFW_V4}{}",
        NFT_UFW_V4.replace("table ip ", "table ip6 ")
    );
    check(
        nft(&both).file("/proc/net/if_inet6", &v6),
        Reading::Value(Value::Bool(true)),
    );
}

#[test]
fn old_tables_count_where_they_are_in_use() {
    let rules = "-P INPUT ACCEPT\n-P FORWARD DROP\n-N in\n-A INPUT -i lo -j ACCEPT\n-A INPUT -j in\n\
                 -A in -p tcp -m tcp --dport 22 -j ACCEPT\n-A in -j LOG\n-A in -j REJECT --reject-with icmp-port-unreachable\n";
    let tree = || nft("").tool("/usr/sbin/iptables-legacy", rules, 0, "");
    check(tree(), Reading::Value(Value::Bool(false)));
    let used = tree().file("/proc/net/ip_tables_names", "filter\n");
    check(used, Reading::Value(Value::Bool(true)));
    let open = Tree::new().tool("/usr/sbin/iptables", "-P INPUT ACCEPT\n", 0, "");
    check(open, Reading::Value(Value::Bool(false)));
}

#[test]
fn who_may_not_look_reads_what_is_configured() {
    let denied = || {
        Tree::new().tool(
            "/usr/sbin/nft",
            "",
            1,
            "Operation not permitted (you must be root)",
        )
    };
    check(denied(), Reading::Denied);
    let ufw = |text: &str| denied().file("/etc/ufw/ufw.conf", text);
    check(
        ufw("# on\nENABLED=yes\nLOGLEVEL=low\n"),
        Reading::Value(Value::Bool(true)),
    );
    check(ufw("ENABLED=no\n"), Reading::Denied);
    let firewalld = |command: &str| {
        denied()
            .file("/run/firewalld.pid", "812\n")
            .file("/proc/812/cmdline", command)
    };
    let on = "/usr/bin/python3\0-s\0/usr/sbin/firewalld\0--nofork\0";
    check(firewalld(on), Reading::Value(Value::Bool(true)));
    check(firewalld("/usr/bin/cat\0"), Reading::Denied);
}

#[test]
fn a_file_is_no_evidence_of_rules() {
    let configured = |tree: Tree| tree.file("/etc/ufw/ufw.conf", "ENABLED=yes\n");
    let best = |tree: Tree| best_grade(&PROBE, &tree.subject(), "firewall.enabled");
    let denied = || Tree::new().tool("/usr/sbin/nft", "", 1, "Operation not permitted");
    assert_eq!(best(configured(denied())), Grade::Own);
    assert_eq!(best(configured(Tree::new())), Grade::Own);
    assert_eq!(best(denied()), Grade::Os);
    assert_eq!(best(configured(nft(NFT_DROP))), Grade::Os);
    let broken = configured(Tree::new().tool(
        "/usr/sbin/nft",
        "",
        1,
        "netlink: cache initialization failed",
    ));
    let facts = found(&PROBE, &broken);
    assert!(
        matches!(facts["firewall.enabled"], Reading::Error(_)),
        "{facts:?}"
    );
}

#[test]
fn addresses_that_cannot_be_read_may_be_there() {
    let facts = found(&PROBE, &nft(NFT_UFW_V4).dir("/proc/net/if_inet6"));
    assert!(
        matches!(facts["firewall.enabled"], Reading::Error(_)),
        "{facts:?}"
    );
}

#[test]
fn what_is_configured_does_not_outweigh_the_live_rules() {
    let tree = nft(NFT_OPEN).file("/etc/ufw/ufw.conf", "ENABLED=yes\n");
    check(tree, Reading::Value(Value::Bool(false)));
    check(Tree::new(), Reading::Absent);
}

fn nft(ruleset: &str) -> Tree {
    Tree::new().tool("/usr/sbin/nft", ruleset, 0, "")
}

fn check(tree: Tree, expected: Reading) {
    assert_eq!(found(&PROBE, &tree)["firewall.enabled"], expected);
}
