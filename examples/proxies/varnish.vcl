# Varnish before an app on port 8080. Try it:
#   varnishd -F -n /tmp/varnish -a :8081 -f $PWD/varnish.vcl -p feature=+http2
# It speaks no TLS: before it stands what does (hitch, HAProxy), which may speak HTTP/2 with it. The app says
# `trusted = { "127.0.0.1" }`, so that request.remote is the client's address.
vcl 4.1;

backend default {
  .host = "127.0.0.1";
  .port = "8080";
  .first_byte_timeout = 60s;
  .between_bytes_timeout = 60s; # of silence: well above the app's heartbeat (15 s)
}

sub vcl_recv {
  if (req.http.Accept ~ "text/event-stream") {
    # A stream is nobody else's. In a pipe both sides see at once that the other has left; HTTP/2 has no pipes.
    if (req.proto == "HTTP/2.0") {
      return (pass);
    }
    return (pipe);
  }
}

sub vcl_pipe {
  set bereq.http.Connection = "close"; # what follows on this connection would not be looked at
}

sub vcl_backend_response {
  if (beresp.http.Content-Type ~ "^text/event-stream") {
    set beresp.do_stream = true;
    set beresp.do_gzip = false;
    set beresp.uncacheable = true;
  }
}
