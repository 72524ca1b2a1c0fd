//! The steps of the fail-open ladder, in the order in which a pull meets them.

use super::{Row, beside, failures, kernel, of, proxy, row};

pub(super) const LADDER: &[Row] = &[
    row(
        "ladder 1",
        "the daemon is killed or crashes",
        "the runtime goes on without it",
        &[
            kernel("fail_open::pitfall_13_killed"),
            failures("containerd_survives_the_daemon_killed_during_a_pull"),
            failures("dockerd_survives_the_daemon_killed_during_a_pull"),
            failures("podman_survives_the_daemon_killed_during_a_pull"),
        ],
    ),
    row(
        "ladder 2",
        "the daemon is stopped or stuck before a pull",
        "the pull goes directly, once 5 s have passed",
        &[
            kernel("fail_open::pitfall_13_stopped_and_continued"),
            failures("a_stopped_daemon_is_passed_by_and_used_again_when_it_goes_on"),
            failures("what_waits_in_the_queue_of_a_daemon_that_dies_reaches_the_registry"),
        ],
    ),
    row(
        "ladder 3",
        "the listener is closed",
        "new connections go directly",
        &[kernel("fail_open::pitfall_13_listener_closed")],
    ),
    row(
        "ladder 4",
        "a map of the hooks is full",
        "connections beyond it go directly",
        &[kernel("crowd::pitfall_12_what_finds_no_room_goes_straight_and_nothing_goes_astray")],
    ),
    row(
        "ladder 5",
        "the daemon stands still in the middle of a body",
        "the watchdog kills it, and the pull goes on directly",
        &[
            failures("containerd_survives_a_daemon_that_stands_still_in_a_body"),
            failures("dockerd_survives_a_daemon_that_stands_still_in_a_body"),
            failures("podman_survives_a_daemon_that_stands_still_in_a_body"),
        ],
    ),
    row(
        "ladder 6",
        "the registry wants a client's certificate, does not verify or is not TLS",
        "the registry itself",
        &[
            proxy("way_in::a_registry_that_would_fail_without_us_fails_the_same"),
            proxy("way_in::a_client_with_a_certificate_gets_through"),
            proxy("way_in::bytes_that_are_not_tls_pass_both_ways"),
        ],
    ),
    row(
        "ladder 7",
        "the registry is away",
        "images that were shown before are pulled",
        &[
            proxy("away::a_registry_that_is_gone_does_not_stop_a_pull"),
            proxy("away::a_failing_registry_does_not_stop_a_pull"),
            beside("waylay", "tls::verdict::tests::a_registry_that_is_away_is_judged_by_its_last_good_verdict"),
        ],
    ),
    row(
        "ladder 8",
        "the registry is away and was never seen",
        "the registry's own silence or refusal",
        &[
            proxy("way_in::a_registry_never_seen_that_is_away_fails_as_without_us"),
            beside("waylay", "tls::verdict::tests::a_registry_never_seen_is_spliced_after_three_silent_seconds"),
        ],
    ),
    row(
        "ladder 9",
        "the client refuses our certificate",
        "the next attempt goes directly, for ten minutes",
        &[
            proxy("way_in::a_client_that_refuses_us_is_left_alone_next_time"),
            beside("waylay", "tls::tests::a_client_that_refuses_us_is_left_alone_for_ten_minutes"),
        ],
    ),
    row(
        "ladder 10",
        "a redirect that may not or cannot be followed",
        "the redirect itself",
        &[proxy("redirects::what_may_not_be_followed_is_relayed"), proxy("redirects::an_endless_redirect_ends")],
    ),
    row(
        "ladder 11",
        "the limit of connections",
        "new connections go directly until there is room",
        &[
            of("fleet_overload", "a_daemon_at_its_limit_of_connections_fails_no_pull_and_comes_back"),
            proxy("limits::more_connections_than_there_are_places_wait_for_one"),
            beside(
                "waylay",
                "accept::tests::near_the_limit_the_kernel_is_told_and_those_on_their_way_wait_for_a_place",
            ),
        ],
    ),
    row(
        "ladder 12",
        "no room in the store or on the disk",
        "the blob, not stored",
        &[
            proxy("pulls::a_blob_larger_than_the_store_passes_through"),
            of("proxy_full_disk", "a_disk_that_fails_in_the_middle_of_a_blob_costs_its_client_one_attempt"),
            beside("waylay", "store::tests::a_disk_at_its_watermark_takes_nothing_more"),
        ],
    ),
    row(
        "ladder 13",
        "attached, but not effective",
        "`intercept_effective` says no",
        &[
            kernel("attach::a_cgroup_that_we_do_not_live_in_is_attached_to_but_not_effective"),
            kernel("attach::a_trial_that_nobody_accepts_is_not_effective_until_somebody_does"),
        ],
    ),
];
