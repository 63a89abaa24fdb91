package main

import (
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"syscall"
	"time"

	"golang.org/x/net/dns/dnsmessage"
)

const (
	// largest is more than any attempt sends at once.
	largest = 64 << 10
	// patience is how long a connection may take to come out with its token.
	patience = 5 * time.Second
	// udplite is UDP with a partial checksum (RFC 3828).
	udplite = 136
)

// sink takes what comes one way.
type sink struct {
	by    string
	serve func() error
}

func sinks(address netip.Addr, heard *journal) []sink {
	return []sink{
		{"tcp", func() error { return streams(netip.AddrPortFrom(address, httpPort), heard) }},
		{"udp", func() error { return datagrams(address, "udp", heard) }},
		{"udplite", func() error { return udpLite(address, heard) }},
		{"icmp", func() error { return echoes(address, heard) }},
		{"dns", func() error { return names(address, heard) }},
		{"dns over tcp", func() error { return namesOverTCP(address, heard) }},
		{"quic", func() error { return quicSink(address, heard) }},
	}
}

// streams answers whoever brings a token as an HTTP server does, whatever it was spoken in.
func streams(at netip.AddrPort, heard *journal) error {
	return accept(at, func(connection net.Conn) {
		var all []byte
		piece := make([]byte, largest)
		for len(all) < largest {
			read, err := connection.Read(piece)
			all = append(all, piece[:read]...)
			if heard.note("tcp", connection.RemoteAddr().String(), all) {
				fmt.Fprint(connection, "HTTP/1.1 200 OK\r\nContent-Length: 6\r\nConnection: close\r\n\r\nheard\n")
				return
			}
			if err != nil {
				return
			}
		}
	})
}

func accept(at netip.AddrPort, serve func(net.Conn)) error {
	listener, err := net.Listen("tcp", at.String())
	if err != nil {
		return err
	}
	for {
		connection, err := listener.Accept()
		if err != nil {
			return err
		}
		go func() {
			defer connection.Close()
			// One that cannot be set is gone already, as the next read says.
			_ = connection.SetDeadline(time.Now().Add(patience))
			serve(connection)
		}()
	}
}

// packets takes datagrams until the socket fails.
func packets(socket net.PacketConn, take func(bytes []byte, from net.Addr)) error {
	bytes := make([]byte, largest)
	for {
		read, from, err := socket.ReadFrom(bytes)
		if err != nil {
			return err
		}
		take(bytes[:read], from)
	}
}

func datagrams(address netip.Addr, by string, heard *journal) error {
	socket, err := net.ListenPacket("udp", netip.AddrPortFrom(address, udpPort).String())
	if err != nil {
		return err
	}
	return packets(socket, func(bytes []byte, from net.Addr) {
		if heard.note(by, from.String(), bytes) {
			// The client waits for it; one that is gone does not.
			_, _ = socket.WriteTo([]byte("heard\n"), from)
		}
	})
}

// udpLite has no place in Go's net package: the socket is made by hand and then read like any other.
func udpLite(address netip.Addr, heard *journal) error {
	family, name := syscall.AF_INET, syscall.Sockaddr(&syscall.SockaddrInet4{Port: udpPort, Addr: as4(address)})
	if address.Is6() {
		family, name = syscall.AF_INET6, &syscall.SockaddrInet6{Port: udpPort, Addr: address.As16()}
	}
	number, err := syscall.Socket(family, syscall.SOCK_DGRAM, udplite)
	if err != nil {
		return err
	}
	if err := syscall.Bind(number, name); err != nil {
		return err
	}
	bytes := make([]byte, largest)
	for {
		read, from, err := syscall.Recvfrom(number, bytes, 0)
		if err != nil {
			return err
		}
		if heard.note("udplite", fmt.Sprint(from), bytes[:read]) {
			_ = syscall.Sendto(number, []byte("heard\n"), 0, from)
		}
	}
}

func as4(address netip.Addr) [4]byte {
	if address.Is4() {
		return address.As4()
	}
	return [4]byte{}
}

// echoes reads ICMP beside the kernel, which answers it.
func echoes(address netip.Addr, heard *journal) error {
	network := "ip4:icmp"
	if address.Is6() {
		network = "ip6:ipv6-icmp"
	}
	socket, err := net.ListenPacket(network, address.String())
	if err != nil {
		return err
	}
	return packets(socket, func(bytes []byte, from net.Addr) { heard.note("icmp", from.String(), bytes) })
}

func names(address netip.Addr, heard *journal) error {
	socket, err := net.ListenPacket("udp", netip.AddrPortFrom(address, dnsPort).String())
	if err != nil {
		return err
	}
	return packets(socket, func(bytes []byte, from net.Addr) {
		if answer := answered(bytes, "dns", from.String(), address, heard); answer != nil {
			_, _ = socket.WriteTo(answer, from)
		}
	})
}

// namesOverTCP has a length before every message (RFC 1035, 4.2.2).
func namesOverTCP(address netip.Addr, heard *journal) error {
	return accept(netip.AddrPortFrom(address, dnsPort), func(connection net.Conn) {
		length := make([]byte, 2)
		if _, err := io.ReadFull(connection, length); err != nil {
			return
		}
		bytes := make([]byte, int(length[0])<<8|int(length[1]))
		if _, err := io.ReadFull(connection, bytes); err != nil {
			return
		}
		if answer := answered(bytes, "dns over tcp", connection.RemoteAddr().String(), address, heard); answer != nil {
			_, _ = connection.Write(append([]byte{byte(len(answer) >> 8), byte(len(answer))}, answer...))
		}
	})
}

// answered notes the name of a query, and says that whatever was asked for is here.
func answered(bytes []byte, by, from string, here netip.Addr, heard *journal) []byte {
	var query dnsmessage.Message
	if err := query.Unpack(bytes); err != nil || len(query.Questions) == 0 {
		return nil
	}
	question := query.Questions[0]
	heard.note(by, from, []byte(question.Name.String()))
	answer := dnsmessage.Message{Header: dnsmessage.Header{ID: query.ID, Response: true, Authoritative: true}, Questions: query.Questions}
	if question.Type == dnsmessage.TypeA && here.Is4() {
		head := dnsmessage.ResourceHeader{Name: question.Name, Class: dnsmessage.ClassINET}
		answer.Answers = []dnsmessage.Resource{{Header: head, Body: &dnsmessage.AResource{A: here.As4()}}}
	}
	packed, err := answer.Pack()
	if err != nil {
		fmt.Fprintln(os.Stderr, "internet: an answer about names:", err)
		return nil
	}
	return packed
}
