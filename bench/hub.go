// The fan-out job in Go, as its users write it: net/http, and one hub with a buffered channel for each subscriber.
//
//	hub PORT
//
// hub.lua says what it answers to. An event for which a subscriber's channel has no room is not sent to it.
package main

import (
	"fmt"
	"log"
	"math"
	"net/http"
	"os"
	"sort"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"
	"unsafe"
)

const (
	buffered = 256
	first    = 200 * time.Millisecond // after the request, which is answered meanwhile
	pause    = 20 * time.Millisecond  // between two publishes that are timed
)

var filler = strings.Repeat("x", 71)

type hub struct {
	mutex       sync.Mutex
	sequence    int
	subscribers map[chan []byte]struct{}
}

func (h *hub) add() chan []byte {
	events := make(chan []byte, buffered)
	h.mutex.Lock()
	h.subscribers[events] = struct{}{}
	h.mutex.Unlock()
	return events
}

func (h *hub) remove(events chan []byte) {
	h.mutex.Lock()
	delete(h.subscribers, events)
	h.mutex.Unlock()
}

// publish encodes once. The id is as long as one of eventstream's, so that the bytes are as many.
func (h *hub) publish(number int, due int64) {
	h.mutex.Lock()
	defer h.mutex.Unlock()
	h.sequence++
	frame := []byte(fmt.Sprintf("id: 0123456789abcdef-%d\ndata: %08d %019d %s\n\n", h.sequence, number, due, filler))
	for events := range h.subscribers {
		select {
		case events <- frame:
		default:
		}
	}
}

// events writes what is waiting, and flushes when nothing more is.
func (h *hub) events(w http.ResponseWriter, r *http.Request) {
	w.Header().Set("Content-Type", "text/event-stream")
	w.Header().Set("Cache-Control", "no-cache, no-transform")
	w.Header().Set("Connection", "keep-alive")
	w.Header().Set("X-Accel-Buffering", "no")
	flusher := w.(http.Flusher)
	events := h.add()
	defer h.remove(events)
	fmt.Fprint(w, "retry: 3000\n\n")
	flusher.Flush()
	for {
		select {
		case <-r.Context().Done():
			return
		case frame := <-events:
			w.Write(frame)
			if len(events) == 0 {
				flusher.Flush()
			}
		}
	}
}

// monotonic is CLOCK_MONOTONIC in nanoseconds, which package time does not show.
func monotonic() int64 {
	var t syscall.Timespec
	syscall.Syscall(syscall.SYS_CLOCK_GETTIME, 1, uintptr(unsafe.Pointer(&t)), 0)
	return t.Nano()
}

func (h *hub) start(w http.ResponseWriter, r *http.Request) {
	rate, _ := strconv.ParseFloat(r.FormValue("rate"), 64)
	count, _ := strconv.Atoi(r.FormValue("count"))
	begin := monotonic() + int64(first)
	due := func(number int) int64 { return begin + int64(float64(number-1)*1e9/rate) }
	go func() {
		for number := 1; number <= count; {
			for ; number <= count && due(number) <= monotonic(); number++ {
				h.publish(number, due(number))
			}
			// A whole number of milliseconds, as the other servers' timers have.
			milliseconds := math.Ceil(float64(due(number)-monotonic()) / 1e6)
			time.Sleep(time.Duration(math.Max(milliseconds, 1)) * time.Millisecond)
		}
	}()
	fmt.Fprintln(w, "ok")
}

func (h *hub) cost(w http.ResponseWriter, r *http.Request) {
	count, _ := strconv.Atoi(r.FormValue("count"))
	took := make([]float64, count)
	for i := range took {
		time.Sleep(pause)
		begin := time.Now()
		h.publish(i+1, monotonic())
		took[i] = float64(time.Since(begin)) / 1e3
	}
	sort.Float64s(took)
	at := func(share float64) float64 { return took[int(math.Ceil(float64(count)*share))-1] }
	fmt.Fprintf(w, "{\"publish_us\":%.3f,\"publish_p99_us\":%.3f,\"publish_max_us\":%.3f}\n", at(0.5), at(0.99), at(1))
}

func main() {
	if len(os.Args) != 2 {
		log.Fatal("usage: hub PORT")
	}
	h := &hub{subscribers: map[chan []byte]struct{}{}}
	http.HandleFunc("/events", h.events)
	http.HandleFunc("/start", h.start)
	http.HandleFunc("/cost", h.cost)
	fmt.Println(os.Args[1], os.Getpid())
	log.Fatal(http.ListenAndServe("127.0.0.1:"+os.Args[1], nil))
}
