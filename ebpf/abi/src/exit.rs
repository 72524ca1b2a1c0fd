//! Every way out of the hooks. Each has a counter, so that "why was this pull not caught?" has an answer.

/// Why a hook did what it did. The numbers index the counters' map.
#[repr(u32)]
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Exit {
    /// Sent to the proxy.
    Redirected = 0,
    /// User space asked us to stand aside (start, drain, overload), or has not finished attaching.
    Disabled = 1,
    /// UDP, or another protocol that we do not speak.
    NotTcp = 2,
    /// No registry listens on that port.
    Port = 3,
    /// Loopback, link-local or unspecified.
    LocalDestination = 4,
    /// The socket carries our own mark.
    OwnSocket = 5,
    /// The socket is bound to a device: sent to loopback it would hang.
    BoundDevice = 6,
    /// The caller lives in another network namespace, where our listener is not.
    OtherNamespace = 7,
    /// The caller is the proxy itself.
    OwnProcess = 8,
    /// The caller is no container runtime that we know.
    NotListed = 9,
    /// The operator wants this destination left alone.
    Bypassed = 10,
    /// User space has been silent for too long.
    StaleHeartbeat = 11,
    /// Nobody listens on our port for this address family.
    NoListener = 12,
    /// Too many connections are on their way already.
    NoRoom = 13,
    /// A helper or a map failed.
    Error = 14,
    /// `sock_ops` made a redirected connection's destination known under its addresses.
    Published = 15,
    /// `sock_ops` could not: the proxy will close this connection.
    PublishFailed = 16,
    /// A redirected connection went elsewhere in the end: another program rewrote it after us.
    Diverted = 17,
}

impl Exit {
    /// Every exit, in the order of the numbers.
    pub const ALL: [Self; 18] = [
        Self::Redirected,
        Self::Disabled,
        Self::NotTcp,
        Self::Port,
        Self::LocalDestination,
        Self::OwnSocket,
        Self::BoundDevice,
        Self::OtherNamespace,
        Self::OwnProcess,
        Self::NotListed,
        Self::Bypassed,
        Self::StaleHeartbeat,
        Self::NoListener,
        Self::NoRoom,
        Self::Error,
        Self::Published,
        Self::PublishFailed,
        Self::Diverted,
    ];

    /// Its stable name, as a metric's label shows it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Redirected => "redirected",
            Self::Disabled => "disabled",
            Self::NotTcp => "not_tcp",
            Self::Port => "port",
            Self::LocalDestination => "local_destination",
            Self::OwnSocket => "own_socket",
            Self::BoundDevice => "bound_device",
            Self::OtherNamespace => "other_namespace",
            Self::OwnProcess => "own_process",
            Self::NotListed => "not_listed",
            Self::Bypassed => "bypassed",
            Self::StaleHeartbeat => "stale_heartbeat",
            Self::NoListener => "no_listener",
            Self::NoRoom => "no_room",
            Self::Error => "error",
            Self::Published => "published",
            Self::PublishFailed => "publish_failed",
            Self::Diverted => "diverted",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_follow_the_list_and_names_differ() {
        for (index, exit) in Exit::ALL.into_iter().enumerate() {
            assert_eq!(exit as usize, index);
            assert!(Exit::ALL.iter().filter(|other| other.name() == exit.name()).count() == 1, "{exit:?}");
        }
    }
}
