/* slow: readers that do not keep up.
 *
 * A reader is slow if its socket has refused bytes and more than half of the history lies ahead of its cursor: the other
 * half is its time to come back and resume. What was published since the last turn's end does not count, nor a burst for
 * ES_BURST_MS, nor how far back a reader began. */
#ifndef ES_NET_SLOW_H
#define ES_NET_SLOW_H

#include "net/subscription.h"

/* A visited reader's socket has refused bytes: is it slow? Then what its channel says of slow ones is done. */
void es_slow_check(es_subscription *subscription);

/* Frames that it should have got are gone. */
void es_slow_overrun(es_subscription *subscription);

#endif
