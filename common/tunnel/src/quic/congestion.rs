//! How much of a tunnel's connection may be on its way at once.

use std::{
    any::Any,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Instant,
};

use quinn_proto::{
    RttEstimator,
    congestion::{Controller, ControllerFactory, ControllerMetrics, CubicConfig},
};

/// Whether whole packets travel in a connection. Shared with its controller, to which quinn gives no
/// way once it has it; the packet path sets it, and nothing waits for it.
#[derive(Clone, Debug, Default)]
pub(super) struct Packets(Arc<AtomicBool>);

impl Packets {
    /// Packets travel from now on.
    pub(super) fn travel(&self) {
        self.0.store(true, Ordering::Relaxed);
    }

    fn are_traveling(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }
}

/// CUBIC (RFC 9438) for flows in streams; and for packets, whose own flows know congestion when they
/// see it, as much as the other carrier gives them.
///
/// One controller within another makes the inner one blind: it never sees the path's loss, only the
/// queue before the outer window, and overflows that again and again.
struct Window {
    streams: Box<dyn Controller>,
    packets: Packets,
    /// Bytes that were sent and neither acknowledged nor found lost.
    in_flight: u64,
}

impl Controller for Window {
    fn on_sent(&mut self, now: Instant, bytes: u64, last_packet_number: u64) {
        self.in_flight = self.in_flight.saturating_add(bytes);
        self.streams.on_sent(now, bytes, last_packet_number);
    }

    fn on_ack(
        &mut self,
        now: Instant,
        sent: Instant,
        bytes: u64,
        app_limited: bool,
        rtt: &RttEstimator,
    ) {
        self.streams.on_ack(now, sent, bytes, app_limited, rtt);
    }

    fn on_end_acks(
        &mut self,
        now: Instant,
        in_flight: u64,
        app_limited: bool,
        largest_packet_num_acked: Option<u64>,
    ) {
        self.in_flight = in_flight;
        self.streams
            .on_end_acks(now, in_flight, app_limited, largest_packet_num_acked);
    }

    fn on_congestion_event(
        &mut self,
        now: Instant,
        sent: Instant,
        is_persistent_congestion: bool,
        lost_bytes: u64,
    ) {
        self.in_flight = self.in_flight.saturating_sub(lost_bytes);
        self.streams
            .on_congestion_event(now, sent, is_persistent_congestion, lost_bytes);
    }

    fn on_mtu_update(&mut self, new_mtu: u16) {
        self.streams.on_mtu_update(new_mtu);
    }

    fn window(&self) -> u64 {
        if !self.packets.are_traveling() {
            return self.streams.window();
        }
        // So large a window goes without pacing: the flows within pace themselves.
        if self.in_flight < PACKETS_WINDOW {
            u64::MAX
        } else {
            PACKETS_WINDOW
        }
    }

    fn metrics(&self) -> ControllerMetrics {
        self.streams.metrics()
    }

    fn clone_box(&self) -> Box<dyn Controller> {
        Box::new(Self {
            streams: self.streams.clone_box(),
            packets: self.packets.clone(),
            in_flight: self.in_flight,
        })
    }

    fn initial_window(&self) -> u64 {
        self.streams.initial_window()
    }

    fn into_any(self: Box<Self>) -> Box<dyn Any> {
        self
    }
}

impl ControllerFactory for Packets {
    fn build(self: Arc<Self>, now: Instant, current_mtu: u16) -> Box<dyn Controller> {
        Box::new(Window {
            streams: Arc::new(CubicConfig::default()).build(now, current_mtu),
            packets: (*self).clone(),
            in_flight: 0,
        })
    }
}

/// Bytes of packets that may be on their way: what 10 Gbit/s hold in 50 ms. It bounds what a tunnel
/// remembers of packets that nothing acknowledges.
const PACKETS_WINDOW: u64 = 64 * 1024 * 1024;
