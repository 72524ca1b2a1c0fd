//! The known traps of redirecting in the kernel.

use super::{Row, Test, beside, failures, kernel, of, proxy, row};

pub(super) const PITFALLS: &[Row] = &[
    row(
        "pitfall 1",
        "another program is attached to the cgroup",
        "both run",
        &[kernel("attach::pitfall_01_stands_beside_another_program")],
    ),
    row(
        "pitfall 2",
        "cgroup2 is mounted elsewhere, or not at all",
        "it is found, or the error says so",
        &[
            kernel("attach::pitfall_02_finds_the_cgroup2_mount"),
            beside("waylay", "intercept::cgroup::tests::pure_v2"),
            beside("waylay", "intercept::cgroup::tests::hybrid"),
            beside("waylay", "intercept::cgroup::tests::v1_only"),
        ],
    ),
    row(
        "pitfall 3",
        "a service's cgroup is removed and made anew",
        "caught before and after",
        &[kernel("attach::pitfall_03_catches_a_service_whose_cgroup_was_made_anew")],
    ),
    row(
        "pitfall 4",
        "a socket older than its process's move to a cgroup",
        "caught",
        &[kernel("attach::pitfall_04_catches_a_socket_made_before_its_process_was_moved")],
    ),
    row(
        "pitfall 5",
        "IPv4 in IPv6, IPv6, no IPv6",
        "the destination is exact",
        &[
            kernel("sockets::pitfall_05_v4_mapped"),
            kernel("sockets::pitfall_05_native_v6"),
            kernel("sockets::pitfall_05_no_v6"),
            kernel("sockets::pitfall_05_v6_switched_off"),
        ],
    ),
    row("pitfall 6", "UDP to port 443", "it keeps its peer", &[kernel("sockets::pitfall_06_udp_keeps_its_peer")]),
    row(
        "pitfall 7",
        "a socket bound to a device",
        "it goes directly and does not hang",
        &[kernel("sockets::pitfall_07_bound_to_a_device")],
    ),
    row(
        "pitfall 8",
        "one source port on two addresses",
        "each has its own destination",
        &[kernel("sockets::pitfall_08_one_source_port_on_two_addresses")],
    ),
    row(
        "pitfall 9",
        "Multipath TCP, TCP Fast Open",
        "the right destination",
        &[kernel("sockets::pitfall_09_mptcp"), kernel("sockets::pitfall_09_fast_open")],
    ),
    row(
        "pitfall 10",
        "a socket that connects again",
        "the last destination counts",
        &[kernel("sockets::pitfall_10_the_last_destination_counts")],
    ),
    row(
        "pitfall 11",
        "thousands connect at once",
        "no destination is missing at accept",
        &[kernel("crowd::pitfall_11_no_entry_is_missing_when_thousands_connect_at_once")],
    ),
    row(
        "pitfall 12",
        "more connections than the map has room for",
        "never a wrong destination",
        &[kernel("crowd::pitfall_12_a_place_that_was_never_used_is_freed")],
    ),
    row(
        "pitfall 13",
        "killed, stopped, blocked, off, the listener gone",
        "new connections go directly",
        &[kernel("fail_open::pitfall_13_silent"), kernel("fail_open::pitfall_13_switched_off_and_on")],
    ),
    row(
        "pitfall 14",
        "our own connections",
        "never caught",
        &[
            kernel("fail_open::pitfall_14_a_marked_socket_passes"),
            kernel("fail_open::pitfall_14_our_own_process_passes"),
            kernel("fail_open::pitfall_14_in_another_pid_namespace_too"),
        ],
    ),
    row(
        "pitfall 15",
        "somebody connects to the proxy's port",
        "closed without a word",
        &[
            kernel("crowd::pitfall_15_nobody_uses_the_port_without_having_been_caught"),
            kernel("crowd::pitfall_15_what_a_caught_connection_left_behind_is_no_way_in"),
            proxy("limits::who_comes_without_the_kernel_gets_nothing_and_nowhere"),
        ],
    ),
    row(
        "pitfall 16",
        "a runtime inside a pod, with a network of its own or the host's",
        "the registry itself",
        &[
            kernel("callers::a_runtime_in_another_network_namespace_is_left_alone"),
            of("fleet_pods", "a_runtime_in_a_pod_with_the_hosts_network_talks_to_the_registry_itself"),
            beside("waylay-certs", "trust::process::tests::a_pod_is_seen_in_every_spelling_of_its_cgroup"),
        ],
    ),
    row(
        "pitfall 17",
        "odd, split, long or no TLS, and servers that speak first",
        "byte for byte the registry",
        &[
            proxy("way_in::hellos_in_pieces_and_long_ones"),
            proxy("way_in::what_is_spliced_is_the_registry_itself"),
            proxy("way_in::a_server_that_speaks_first_is_heard"),
            proxy("way_in::half_a_hello_reaches_the_server_as_well"),
            beside("waylay", "tls::hello::tests::a_hello_may_come_byte_by_byte"),
            beside("waylay", "tls::hello::tests::a_hello_of_sixteen_kibibytes_is_read_and_a_longer_one_is_kept"),
        ],
    ),
    row(
        "pitfall 18",
        "a client that does not trust us",
        "it is passed through from the first attempt on",
        &[
            of("fleet", "a_runtime_without_the_drop_in_pulls_at_the_first_attempt"),
            of("fleet", "a_runtime_older_than_the_certificate_pulls_at_the_first_attempt"),
            of("fleet", "a_runtime_whose_certs_d_was_not_written_pulls_at_the_first_attempt"),
        ],
    ),
    row(
        "pitfall 19",
        "an expired, wrong or self-signed registry",
        "the same error as without us",
        &[beside("waylay", "tls::tests::a_registry_that_is_wrong_looks_as_it_does_without_us")],
    ),
    row(
        "pitfall 20",
        "a stolen key of ours",
        "it is good for its one name and signs nothing",
        &[
            Test {
                package: "waylay-certs",
                target: "clients",
                name: "every_client_refuses_the_certificate_of_another_name",
            },
            Test {
                package: "waylay-certs",
                target: "clients",
                name: "every_client_refuses_what_a_stolen_key_has_signed",
            },
        ],
    ),
    row(
        "pitfall 21",
        "containerd with several config_paths",
        "no certificate is promised that it does not read",
        &[
            beside("waylay-certs", "trust::tests::containerd_reads_a_single_config_path_of_either_version"),
            beside("waylay", "install::probe::tests::only_a_single_config_path_counts"),
        ],
    ),
    row(
        "pitfall 22",
        "certs.d directories of the user",
        "they are as they were, after install and after uninstall",
        &[
            beside("waylay-certs", "publish::tests::a_directory_of_dockers_is_not_hidden_from_podman"),
            beside("waylay-certs", "publish::tests::containerds_default_is_not_hidden"),
            beside("waylay", "install::tests::uninstalling_leaves_every_byte_as_it_was"),
        ],
    ),
    row(
        "pitfall 23",
        "a client without the right, and a cache that has the blob",
        "the registry's own refusal",
        &[
            proxy("access::a_right_in_one_repository_is_none_in_another"),
            proxy("strangers::what_a_token_was_shown_ends_with_it"),
            of("fleet_access", "only_the_right_credential_opens_what_is_cached"),
        ],
    ),
    row(
        "pitfall 24",
        "ranges of every kind",
        "the same as from the registry, one download",
        &[
            proxy("ranges::the_same_as_from_the_registry"),
            proxy("ranges::parallel_open_ended_ranges_cost_one_download"),
        ],
    ),
    row(
        "pitfall 25",
        "wrong bytes from a member, the registry or the disk",
        "never a completed body",
        &[
            proxy("faults::a_byte_that_is_always_wrong_never_completes"),
            proxy("peers::damage_on_the_nodes_own_disk_never_reaches_a_client"),
            failures("a_blob_corrupted_on_a_peers_disk_is_noticed_and_its_source_named"),
        ],
    ),
    row(
        "pitfall 26",
        "a member that takes questions and never answers",
        "headers in less than 5 s",
        &[proxy("peers::a_neighbour_that_never_answers_costs_less_than_five_seconds")],
    ),
    row(
        "pitfall 27",
        "redirects home, to metadata, to another host",
        "refused, relayed, without credentials",
        &[
            proxy("redirects::the_cdn_is_asked_by_us_and_without_credentials"),
            proxy("limits::redirects_lead_neither_home_nor_to_a_machines_credentials"),
            proxy("redirects::an_expired_redirect_is_fetched_anew"),
        ],
    ),
    row(
        "pitfall 28",
        "a tag that moved; a registry that counts",
        "what the registry says now, with its own headers",
        &[
            proxy("away::a_tag_means_what_the_registry_says_now"),
            proxy("passed::what_a_registry_counts_is_told_to_the_client"),
            proxy("pulls::headers_are_the_same_from_the_store_as_from_the_registry"),
        ],
    ),
    row(
        "pitfall 29",
        "a push, in chunks and with `Expect: 100-continue`",
        "as without us, nothing kept",
        &[
            proxy("passed::a_push_in_chunks"),
            proxy("passed::an_upload_is_streamed_while_it_comes"),
            proxy("passed::a_client_that_waits_to_be_told_to_go_on_is_told"),
        ],
    ),
    row(
        "pitfall 30",
        "an upgrade in the middle of a pull",
        "no failed pull",
        &[
            failures("an_upgrade_in_the_middle_of_a_pull_fails_none"),
            proxy("way_in::who_has_just_connected_when_the_daemon_stops_is_answered"),
        ],
    ),
    row(
        "pitfall 31",
        "one connection, many repositories and credentials",
        "each request is judged by itself",
        &[
            proxy("strangers::a_connection_that_changes_its_credential"),
            proxy("strangers::streams_of_one_connection_with_different_credentials"),
        ],
    ),
    row(
        "pitfall 32",
        "a runtime that pulls through a proxy",
        "`waylay doctor` warns, and names no password",
        &[beside(
            "waylay",
            "doctor::machine::tests::a_runtime_that_pulls_through_a_proxy_is_told_without_its_password",
        )],
    ),
    row(
        "pitfall 33",
        "the verifier of another kernel",
        "the object loads and catches",
        &[kernel("attach::catches_a_runtime_tells_who_and_where_and_is_gone_when_dropped")],
    ),
];
