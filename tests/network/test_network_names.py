"""The small files by which a container knows names."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orlop.errors import InvalidArgument
from orlop.network import names
from orlop.network.names import Resolvers

WORD = st.text(alphabet="abcdefghij.-0123456789", min_size=1, max_size=10)
ADDRESS = st.ip_addresses().map(str)
RESOLVERS = st.builds(
    Resolvers,
    nameservers=st.lists(ADDRESS, max_size=4).map(tuple),
    search=st.lists(WORD, max_size=4).map(tuple),
    options=st.lists(WORD, max_size=4).map(tuple),
)


@given(RESOLVERS)
def test_resolv_conf_is_read_as_it_is_written(one: Resolvers) -> None:
    """Writing and reading a resolv.conf changes nothing."""
    assert names.parse_resolv_conf(names.resolv_conf(one)) == one


@given(st.text(max_size=200))
def test_any_text_is_a_resolv_conf(text: str) -> None:
    """Whatever the host's file holds, reading it does not fail, and no found word has spaces."""
    found = names.parse_resolv_conf(text)
    assert all(len(word.split()) == 1 for word in (*found.nameservers, *found.search, *found.options))


def test_comments_and_later_lines() -> None:
    """Comments are left out, the last search list wins, options add up (resolv.conf(5))."""
    text = (
        "# no\nnameserver 1.1.1.1 # yes\n;nameserver 9.9.9.9\nsearch a b\ndomain c\noptions ndots:2\noptions rotate\n"
    )
    assert names.parse_resolv_conf(text) == Resolvers(
        nameservers=("1.1.1.1",), search=("c",), options=("ndots:2", "rotate")
    )


def test_behind_systemd_resolved() -> None:
    """Where the host asks systemd-resolved's stub, containers get the servers that the stub asks."""
    files = {
        names.RESOLV_CONF: "nameserver 127.0.0.53\nsearch lan\noptions edns0 trust-ad\n",
        names.SYSTEMD_RESOLV_CONF: "nameserver 192.0.2.53\nsearch lan\n",
    }
    found = names.host_resolvers(lambda path: files.get(path, ""))
    assert found == Resolvers(nameservers=("192.0.2.53",), search=("lan",), options=("edns0", "trust-ad"))
    files[names.SYSTEMD_RESOLV_CONF] = ""
    assert names.host_resolvers(lambda path: files.get(path, "")).nameservers == ("127.0.0.53",)


def test_unreachable_servers_are_left_out() -> None:
    """Loopback, link-local and (without IPv6) IPv6 servers are no use in a container; some remain always."""
    host = Resolvers(nameservers=("127.0.0.1", "::1", "192.0.2.1", "fe80::1%eth0", "2001:db8::1", "::ffff:127.0.0.1"))
    assert names.resolvers(host).nameservers == ("192.0.2.1",)
    assert names.resolvers(host, ipv6=True).nameservers == ("192.0.2.1", "2001:db8::1")
    assert names.resolvers(host, shares_host_network=True).nameservers == host.nameservers
    assert names.resolvers(Resolvers(nameservers=("127.0.0.1",))).nameservers == names.FALLBACK_SERVERS
    assert names.resolvers(Resolvers()).nameservers == names.FALLBACK_SERVERS


@given(RESOLVERS, RESOLVERS)
def test_what_is_asked_for_wins(host: Resolvers, asked: Resolvers) -> None:
    """Each of --dns, --dns-search and --dns-option replaces the host's, if given, whatever it names."""
    found = names.resolvers(host, dns=asked.nameservers, dns_search=asked.search, dns_options=asked.options, ipv6=True)
    if asked.nameservers:
        assert found.nameservers == asked.nameservers
    if asked.search:
        assert found.search == tuple(one for one in asked.search if one != ".")
    assert found.options == (asked.options or host.options)


def test_no_search_domains_at_all() -> None:
    """--dns-search . clears the host's list."""
    assert names.resolvers(Resolvers(search=("lan",)), dns_search=(".",)).search == ()


def test_a_resolver_must_be_an_address() -> None:
    """A name where an address belongs is refused."""
    with pytest.raises(InvalidArgument, match=r"dns\.example"):
        names.resolvers(Resolvers(), dns=("dns.example",))


def test_hosts_as_docker_writes_it() -> None:
    """Standard names, additions, then the container's own names at each of its addresses."""
    text = names.hosts(
        hostname="web",
        domain="lan",
        addresses=("10.91.0.2", "", "fd00::2"),
        aliases=("web", "www"),
        add_hosts=(("db", "10.0.0.5"), ("host.docker.internal", names.HOST_GATEWAY)),
        gateway="10.91.0.1",
    )
    assert text.splitlines() == [
        "127.0.0.1\tlocalhost",
        "::1\tlocalhost ip6-localhost ip6-loopback",
        "fe00::0\tip6-localnet",
        "ff00::0\tip6-mcastprefix",
        "ff02::1\tip6-allnodes",
        "ff02::2\tip6-allrouters",
        "10.0.0.5\tdb",
        "10.91.0.1\thost.docker.internal",
        "10.91.0.2\tweb.lan web www",
        "fd00::2\tweb.lan web www",
    ]


def test_the_hosts_own_file_with_additions() -> None:
    """--network host keeps the host's names and adds to them; there the gateway to the host is the host."""
    text = names.host_network_hosts("1.2.3.4 me", (("db", "10.0.0.5"), ("here", names.HOST_GATEWAY)))
    assert text == "1.2.3.4 me\n10.0.0.5\tdb\n127.0.0.1\there\n"


def test_a_gateway_that_is_not_there() -> None:
    """host-gateway in a network without one is an error, not a wrong line."""
    with pytest.raises(InvalidArgument, match="no gateway"):
        names.hosts(add_hosts=(("here", names.HOST_GATEWAY),))


@given(WORD.filter(lambda name: not name.startswith(".")), st.one_of(ADDRESS, st.just(names.HOST_GATEWAY)))
def test_added_hosts(name: str, address: str) -> None:
    """NAME:ADDRESS and NAME=ADDRESS, an IPv6 address plain or in brackets, mean the same."""
    assert names.parse_add_host(f"{name}:{address}") == (name, address)
    assert names.parse_add_host(f"{name}={address}") == (name, address)
    assert names.parse_add_host(f"{name}:[{address}]") == (name, address)


@pytest.mark.parametrize(
    "text", ["", "db", "db:", ":1.2.3.4", "db:not-an-address", "a b:1.2.3.4", "db:1.2.3.4\n5.6.7.8 x"]
)
def test_malformed_added_hosts(text: str) -> None:
    """What has no name or no address is refused; nothing can add a line of its own."""
    with pytest.raises(InvalidArgument):
        names.parse_add_host(text)


@pytest.mark.parametrize("name", ["", "a" * 65, "a b", "a\nb", "-a", ".a", "ä", "a/b"])
def test_host_names_that_cannot_be(name: str) -> None:
    """Names that the kernel refuses, or that would break the files they stand in, are refused."""
    with pytest.raises(InvalidArgument):
        names.hostname_file(name)
    assert names.hostname_file("web-1.lan") == "web-1.lan\n"
