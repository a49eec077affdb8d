// The reference job in Go, as its users write it: net/http, and a ticker for each client.
//
//	ping PORT
package main

import (
	"fmt"
	"log"
	"net/http"
	"os"
	"time"
)

// begin sends the head and a first byte, so that the client knows that it is open.
func begin(w http.ResponseWriter) http.Flusher {
	w.Header().Set("Content-Type", "text/event-stream")
	w.Header().Set("Cache-Control", "no-cache, no-transform")
	w.Header().Set("Connection", "keep-alive")
	w.Header().Set("X-Accel-Buffering", "no")
	flusher := w.(http.Flusher)
	fmt.Fprint(w, "retry: 3000\n\n")
	flusher.Flush()
	return flusher
}

func ping(w http.ResponseWriter, r *http.Request) {
	flusher := begin(w)
	ticker := time.NewTicker(500 * time.Millisecond)
	defer ticker.Stop()
	for {
		select {
		case <-r.Context().Done():
			return
		case <-ticker.C:
			now := time.Now().Unix()
			fmt.Fprintf(w, "id: %d\nevent: ping\ndata: %d\n\n", now, now)
			flusher.Flush()
		}
	}
}

func idle(w http.ResponseWriter, r *http.Request) {
	begin(w)
	<-r.Context().Done()
}

func main() {
	if len(os.Args) != 2 {
		log.Fatal("usage: ping PORT")
	}
	http.HandleFunc("/ping", ping)
	http.HandleFunc("/idle", idle)
	fmt.Println(os.Args[1], os.Getpid())
	log.Fatal(http.ListenAndServe("127.0.0.1:"+os.Args[1], nil))
}
