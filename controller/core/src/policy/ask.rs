//! What is asked of the engine: everything that a decision may look at, as borrowed values.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    time::Duration,
};

use cardea_proto::{
    app::AppSpec,
    id::DeviceId,
    name::Name,
    posture::{Fact, FactName},
    time::UnixMillis,
};

/// May this device hold a certificate?
#[derive(Clone, Copy, Debug)]
pub struct CertifyAsk<'a> {
    /// The trust domain.
    pub domain: &'a Name,
    /// The device.
    pub device: DeviceFacts<'a>,
    /// Groups of the device's owner.
    pub groups: &'a BTreeSet<Name>,
    /// Where and when.
    pub circumstances: Circumstances,
}

/// May this user, on this device, open this app?
#[derive(Clone, Copy, Debug)]
pub struct ConnectAsk<'a> {
    /// The user.
    pub user: &'a Name,
    /// The user's groups.
    pub groups: &'a BTreeSet<Name>,
    /// The app.
    pub app: &'a AppSpec,
    /// The device.
    pub device: DeviceFacts<'a>,
    /// How the user proved who they are.
    pub auth: Auth<'a>,
    /// Where and when.
    pub circumstances: Circumstances,
    /// How risky the subject looks, from 0 to 100; `None` while nothing computes it.
    pub risk: Option<u8>,
}

/// A device and its latest report.
#[derive(Clone, Copy, Debug)]
pub struct DeviceFacts<'a> {
    /// Its id.
    pub id: DeviceId,
    /// Its name.
    pub name: &'a Name,
    /// Operating system as said at enrollment, such as `linux`.
    pub os: &'a str,
    /// Its user.
    pub owner: &'a Name,
    /// The facts of its latest report.
    pub posture: &'a BTreeMap<FactName, Fact>,
    /// How long ago that report was received; added to the age of each fact.
    pub report_age: Duration,
    /// The device's wall clock minus the controller's when the report came, in seconds.
    ///
    /// This is the fact `clock.skew_s`, graded `os`; what a device says under that name is ignored.
    pub clock_skew_s: Option<i64>,
}

/// How a user proved who they are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Auth<'a> {
    /// `device`: the certificate of the user's enrolled device, which is the only one so far.
    pub method: &'a str,
}

/// Where a request comes from, and when.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Circumstances {
    /// The device's address as the controller sees it, where it is connected.
    pub address: Option<IpAddr>,
    /// The controller's wall clock.
    pub time: UnixMillis,
}

impl Default for Auth<'_> {
    fn default() -> Self {
        Self { method: "device" }
    }
}
