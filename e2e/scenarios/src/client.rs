//! The clients, and what is known of them: the habits that decide how often a far side executes when nobody watches.

/// A client from its registry, unchanged.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Client {
    /// Python requests, with urllib3's `Retry` on POST.
    Requests,
    /// Python httpx, own loop.
    Httpx,
    /// Python aiohttp, own loop.
    Aiohttp,
    /// curl `--fail --retry-all-errors`.
    Curl,
    /// Node's `fetch`, own loop.
    Fetch,
    /// Go's `net/http`, own loop.
    Go,
    /// The JDK's `HttpClient`, own loop.
    Java,
}

/// How a client behaves by itself.
#[derive(Clone, Copy, Debug)]
pub struct Habits {
    /// Speaks HTTP/2 where it is offered.
    pub http2: bool,
    /// Tries again when an answer's body breaks off.
    pub retries_broken_bodies: bool,
    /// Follows 302 and 307.
    pub follows: bool,
    /// Waits for the answer to a stream that a GOAWAY includes. Java 17 does not.
    pub heeds_goaway: bool,
    /// Honours proxy variables, also towards loopback: capture Cooperative catches it.
    pub honours_proxy: bool,
}

impl Client {
    /// All of them.
    pub const ALL: [Self; 7] = [Self::Requests, Self::Httpx, Self::Aiohttp, Self::Curl, Self::Fetch, Self::Go, Self::Java];

    /// As tables and filters name it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Requests => "requests",
            Self::Httpx => "httpx",
            Self::Aiohttp => "aiohttp",
            Self::Curl => "curl",
            Self::Fetch => "fetch",
            Self::Go => "go",
            Self::Java => "java",
        }
    }

    /// How it behaves by itself.
    pub const fn habits(self) -> Habits {
        let plain = Habits { http2: false, retries_broken_bodies: true, follows: false, honours_proxy: true, heeds_goaway: true };
        match self {
            // urllib3's Retry ends with the head: what breaks in the body is the caller's to see.
            Self::Requests => Habits { retries_broken_bodies: false, follows: true, ..plain },
            Self::Httpx => plain,
            Self::Aiohttp => Habits { follows: true, honours_proxy: false, ..plain },
            Self::Curl => Habits { http2: true, ..plain },
            Self::Fetch => Habits { follows: true, honours_proxy: false, ..plain },
            Self::Go => Habits { http2: true, follows: true, honours_proxy: false, ..plain },
            Self::Java => Habits { http2: true, heeds_goaway: false, ..plain },
        }
    }

    /// Whether an answer with this status makes it try again.
    pub const fn retries(self, status: u16) -> bool {
        let usual = status == 429 || status >= 500;
        match self {
            Self::Curl => status >= 400,
            Self::Fetch => usual || status == 408 || status == 409,
            Self::Requests => matches!(status, 429 | 500 | 502 | 503 | 504),
            Self::Httpx | Self::Aiohttp | Self::Go | Self::Java => usual,
        }
    }
}
