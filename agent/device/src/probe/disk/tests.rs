//! Machines as `/proc` and `/sys` show them, and what must be said of each.

use super::*;
use crate::probe::testing::{Tree, found};

const LUKS: &str = "CRYPT-LUKS2-0123456789abcdef-cryptroot\n";
const LVM: &str = "LVM-0123456789abcdef\n";

#[test]
fn luks_on_a_partition_is_encrypted() {
    let tree = disk(Tree::new(), "sda", "8:0", &[("sda2", "8:2")]);
    let tree = layer(tree, "dm-0", "253:0", LUKS, &[("sda2", "8:2")]);
    check(mounted(tree, &["253:0 / /dev/mapper/root"]), true, &[]);
}

#[test]
fn luks_below_lvm_is_encrypted() {
    let tree = disk(Tree::new(), "nvme0n1", "259:0", &[("nvme0n1p3", "259:3")]);
    let tree = layer(tree, "dm-0", "253:0", LUKS, &[("nvme0n1p3", "259:3")]);
    let tree = layer(tree, "dm-1", "253:1", LVM, &[("dm-0", "253:0")]);
    let tree = layer(tree, "dm-2", "253:2", LVM, &[("dm-0", "253:0")]);
    let tree = mounted(tree, &["253:1 / /dev/mapper/vg-root"]);
    check(swapped(tree, "/dev/dm-2 partition"), true, &[]);
}

#[test]
fn one_volume_group_over_an_encrypted_and_a_plain_disk_is_not() {
    let tree = disk(Tree::new(), "sda", "8:0", &[]);
    let tree = disk(tree, "sdb", "8:16", &[]);
    let tree = layer(tree, "dm-0", "253:0", LUKS, &[("sda", "8:0")]);
    let tree = layer(
        tree,
        "dm-1",
        "253:1",
        LVM,
        &[("dm-0", "253:0"), ("sdb", "8:16")],
    );
    check(
        mounted(tree, &["253:1 / /dev/mapper/vg-root"]),
        false,
        &["/"],
    );
}

#[test]
fn a_plain_partition_is_not() {
    let tree = disk(Tree::new(), "sda", "8:0", &[("sda1", "8:1")]);
    check(mounted(tree, &["8:1 / /dev/sda1"]), false, &["/"]);
}

#[test]
fn an_encrypted_home_does_not_make_up_for_a_plain_root() {
    let tree = disk(
        Tree::new(),
        "sda",
        "8:0",
        &[("sda1", "8:1"), ("sda2", "8:2")],
    );
    let tree = layer(tree, "dm-0", "253:0", LUKS, &[("sda2", "8:2")]);
    let mounts = ["8:1 / /dev/sda1", "253:0 /home /dev/mapper/home"];
    check(mounted(tree, &mounts), false, &["/"]);
}

#[test]
fn our_own_state_counts() {
    let tree = disk(
        Tree::new(),
        "sda",
        "8:0",
        &[("sda1", "8:1"), ("sda2", "8:2")],
    );
    let tree = layer(tree, "dm-0", "253:0", LUKS, &[("sda2", "8:2")]);
    let mounts = ["253:0 / /dev/mapper/root", "8:1 /var/lib /dev/sda1"];
    check(mounted(tree, &mounts), false, &["/var/lib"]);
}

#[test]
fn a_mount_over_another_is_the_one_that_counts() {
    let tree = disk(
        Tree::new(),
        "sda",
        "8:0",
        &[("sda1", "8:1"), ("sda2", "8:2")],
    );
    let tree = layer(tree, "dm-0", "253:0", LUKS, &[("sda2", "8:2")]);
    let mounts = ["8:1 / /dev/sda1", "253:0 / /dev/mapper/root"];
    check(mounted(tree, &mounts), true, &[]);
}

#[test]
fn plain_swap_is_not_and_compressed_memory_is_no_disk() {
    let encrypted = || {
        let tree = disk(
            Tree::new(),
            "sda",
            "8:0",
            &[("sda1", "8:1"), ("sda2", "8:2")],
        );
        let tree = layer(tree, "dm-0", "253:0", LUKS, &[("sda2", "8:2")]);
        mounted(tree, &["253:0 / /dev/mapper/root"])
    };
    check(
        swapped(encrypted(), "/dev/sda1 partition"),
        false,
        &["swap /dev/sda1"],
    );
    check(swapped(encrypted(), "/swapfile file"), true, &[]);
    let zram = || disk(encrypted(), "zram0", "252:0", &[]);
    check(swapped(zram(), "/dev/zram0 partition"), true, &[]);
    let backed = zram().file("/sys/devices/zram0/backing_dev", "/dev/sda1\n");
    check(
        swapped(backed, "/dev/zram0 partition"),
        false,
        &["swap /dev/zram0"],
    );
    let random = layer(
        encrypted(),
        "dm-5",
        "253:5",
        "CRYPT-PLAIN-swap\n",
        &[("sda1", "8:1")],
    );
    check(swapped(random, "/dev/dm-5 partition"), true, &[]);
}

#[test]
fn btrfs_is_as_good_as_its_worst_member() {
    let pair = |second: &str| {
        let tree = disk(Tree::new(), "sda", "8:0", &[]);
        let tree = disk(tree, "sdb", "8:16", &[]);
        let tree = layer(tree, "dm-0", "253:0", LUKS, &[("sda", "8:0")]);
        let tree = layer(tree, "dm-1", "253:1", second, &[("sdb", "8:16")]);
        let devices = "/sys/fs/btrfs/0001/devices";
        let tree = tree
            .dir("/sys/fs/btrfs/features")
            .link(&format!("{devices}/dm-0"), "../../../../devices/dm-0")
            .link(&format!("{devices}/dm-1"), "../../../../devices/dm-1")
            .file("/dev/dm-0", "")
            .link("/dev/mapper/one", "../dm-0");
        mounted(tree, &["0:30 / /dev/mapper/one btrfs"])
    };
    check(pair("CRYPT-LUKS1-9-two\n"), true, &[]);
    check(pair("LVM-9\n"), false, &["/"]);
}

#[test]
fn a_mapper_name_without_a_link_is_found_by_what_it_is_called() {
    let tree = disk(Tree::new(), "sda", "8:0", &[]);
    let tree = layer(tree, "dm-0", "253:0", LUKS, &[("sda", "8:0")]);
    let tree = tree.file("/sys/devices/dm-0/dm/name", "one\n");
    check(mounted(tree, &["0:30 / /dev/mapper/one btrfs"]), true, &[]);
}

#[test]
fn verity_proves_and_does_not_hide() {
    let tree = disk(Tree::new(), "sda", "8:0", &[]);
    let tree = layer(
        tree,
        "dm-0",
        "253:0",
        "CRYPT-VERITY-1-root\n",
        &[("sda", "8:0")],
    );
    check(mounted(tree, &["253:0 / /dev/mapper/root"]), false, &["/"]);
}

#[test]
fn a_loop_device_is_as_good_as_the_file_below_it() {
    let tree = disk(Tree::new(), "sda", "8:0", &[]);
    let tree = layer(tree, "dm-0", "253:0", LUKS, &[("sda", "8:0")]);
    let tree = disk(tree, "loop0", "7:0", &[])
        .file("/sys/devices/loop0/loop/backing_file", "/images/home.img\n");
    let mounts = ["253:0 / /dev/mapper/root", "7:0 /home /dev/loop0"];
    check(mounted(tree, &mounts), true, &[]);
}

#[test]
fn zfs_is_asked() {
    let dataset = |says: &str, status: u8| {
        let tree = Tree::new().tool("/usr/sbin/zfs", says, status, "permission denied");
        mounted(tree, &["0:40 / rpool/ROOT zfs"])
    };
    check(dataset("aes-256-gcm", 0), true, &[]);
    check(dataset("off", 0), false, &["/"]);
    let facts = found(&PROBE, &dataset("", 1));
    assert_eq!(facts["disk.encrypted"], Reading::Denied);
}

#[test]
fn what_cannot_be_told_is_an_error_and_never_a_yes() {
    let unclear = [
        "0:50 / overlay overlay",
        "0:51 / server:/export nfs4",
        "8:77 / /dev/sdq1",
    ];
    for mount in unclear {
        let facts = found(&PROBE, &mounted(Tree::new(), &[mount]));
        assert!(
            matches!(facts["disk.encrypted"], Reading::Error(_)),
            "{mount}"
        );
    }
    assert_eq!(
        found(&PROBE, &Tree::new())["disk.encrypted"],
        Reading::Absent
    );
}

#[test]
fn what_cannot_be_read_is_not_encrypted_for_that() {
    let error = |tree: Tree| {
        let facts = found(&PROBE, &tree);
        assert!(
            matches!(facts["disk.encrypted"], Reading::Error(_)),
            "{facts:?}"
        );
    };
    let crypt = || {
        let tree = disk(Tree::new(), "sda", "8:0", &[]);
        layer(tree, "dm-0", "253:0", LUKS, &[("sda", "8:0")])
    };
    let root = || mounted(crypt(), &["253:0 / /dev/mapper/root"]);
    // A directory where a file is expected, and links to themselves, are read by nobody.
    let zram = disk(root(), "zram0", "252:0", &[]).dir("/sys/devices/zram0/backing_dev");
    error(swapped(zram, "/dev/zram0 partition"));
    error(root().link("/home", "home"));
    error(swapped(root().link("/swap", "swap"), "/swap file"));

    let btrfs = |member: &str| {
        let devices = "/sys/fs/btrfs/0001/devices";
        let tree = crypt()
            .file(&format!("{devices}/dm-0/dev"), "253:0\n")
            .file("/dev/dm-0", "")
            .dir(&format!("{devices}/{member}"));
        mounted(tree, &["0:30 / /dev/dm-0 btrfs"])
    };
    check(btrfs("dm-0"), true, &[]);
    error(btrfs("sdb"));
    let other = btrfs("dm-0").link("/sys/fs/btrfs/0002/devices", "devices");
    check(other, true, &[]);
}

#[test]
fn a_ring_of_devices_ends() {
    let tree = layer(Tree::new(), "dm-0", "253:0", LVM, &[("dm-1", "253:1")]);
    let tree = layer(tree, "dm-1", "253:1", LVM, &[("dm-0", "253:0")]);
    let facts = found(&PROBE, &mounted(tree, &["253:0 / /dev/mapper/x"]));
    assert!(matches!(facts["disk.encrypted"], Reading::Error(_)));
}

fn check(tree: Tree, encrypted: bool, open: &[&str]) {
    let facts = found(&PROBE, &tree);
    assert_eq!(
        facts["disk.encrypted"],
        Reading::Value(Value::Bool(encrypted))
    );
    let open = open.iter().map(|name| (*name).to_owned()).collect();
    assert_eq!(facts["disk.unencrypted"], Reading::Value(Value::List(open)));
}

/// A disk with partitions.
fn disk(tree: Tree, name: &str, number: &str, partitions: &[(&str, &str)]) -> Tree {
    let mut tree = named(tree, name, name, number);
    for (partition, number) in partitions {
        let at = format!("{name}/{partition}");
        tree = named(tree, partition, &at, number)
            .file(&format!("/sys/devices/{at}/partition"), "1\n");
    }
    tree
}

/// A device-mapper device on others.
fn layer(tree: Tree, name: &str, number: &str, uuid: &str, on: &[(&str, &str)]) -> Tree {
    let mut tree =
        named(tree, name, name, number).file(&format!("/sys/devices/{name}/dm/uuid"), uuid);
    for (below, number) in on {
        let at = format!("/sys/devices/{name}/slaves/{below}/dev");
        tree = tree.file(&at, format!("{number}\n"));
    }
    tree
}

fn named(tree: Tree, name: &str, at: &str, number: &str) -> Tree {
    tree.file(&format!("/sys/devices/{at}/dev"), format!("{number}\n"))
        .link(
            &format!("/sys/dev/block/{number}"),
            &format!("../../devices/{at}"),
        )
        .link(
            &format!("/sys/class/block/{name}"),
            &format!("../../devices/{at}"),
        )
}

/// `NUMBER POINT SOURCE [TYPE]` each.
fn mounted(tree: Tree, mounts: &[&str]) -> Tree {
    let text: String = mounts
        .iter()
        .map(|mount| {
            let mut parts = mount.split(' ');
            let (number, point, source) = (
                parts.next().unwrap(),
                parts.next().unwrap(),
                parts.next().unwrap(),
            );
            let kind = parts.next().unwrap_or("ext4");
            format!("20 1 {number} / {point} rw shared:1 - {kind} {source} rw\n")
        })
        .collect();
    tree.file("/proc/self/mountinfo", text)
}

fn swapped(tree: Tree, swap: &str) -> Tree {
    tree.file(
        "/proc/swaps",
        format!("Filename Type Size Used Priority\n{swap} 1 0 -2\n"),
    )
}
