package snsfake

import (
	"encoding/base64"
	"encoding/json"
	"encoding/xml"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"
)

const snsNamespace = "http://sns.amazonaws.com/doc/2010-03-31/"

// topic is guarded by the server's mutex.
type topic struct {
	name      string
	fifo      bool
	byContent bool
	subs      []*subscription
	dedupe    dedupe
}

type subscription struct {
	arn   string
	queue string
	raw   bool
}

// snsAction answers one SNS call; it runs under the lock.
type snsAction func(s *Server, form url.Values, f Fault) (any, error)

var snsActions = map[string]snsAction{
	"CreateTopic":               (*Server).snsCreateTopic,
	"DeleteTopic":               (*Server).snsDeleteTopic,
	"ListTopics":                (*Server).snsListTopics,
	"GetTopicAttributes":        (*Server).snsTopicAttributes,
	"Subscribe":                 (*Server).snsSubscribe,
	"Unsubscribe":               (*Server).snsUnsubscribe,
	"ListSubscriptionsByTopic":  (*Server).snsListSubscriptions,
	"SetSubscriptionAttributes": (*Server).snsSetSubscription,
	"Publish":                   (*Server).snsPublish,
	"PublishBatch":              (*Server).snsPublishBatch,
}

func (s *Server) serveSNS(w http.ResponseWriter, r *http.Request) {
	action, out, fault, err := s.callSNS(r)
	if err == nil && fault.AfterEffect {
		cut()
	}
	id := newID()
	w.Header().Set("Content-Type", "text/xml")
	w.Header().Set("X-Amzn-Requestid", id)
	enc := xml.NewEncoder(w)
	if err != nil {
		e := asAPI(err)
		kind := "Sender"
		if e.Status >= 500 {
			kind = "Receiver"
		}
		w.WriteHeader(e.Status)
		_, _ = fmt.Fprintf(w, `<ErrorResponse xmlns="%s"><Error><Type>%s</Type><Code>%s</Code><Message>`, snsNamespace, kind, e.Code)
		_ = xml.EscapeText(w, []byte(e.Message))
		_, _ = fmt.Fprintf(w, `</Message></Error><RequestId>%s</RequestId></ErrorResponse>`, id)
		return
	}
	_, _ = fmt.Fprintf(w, `<%sResponse xmlns="%s">`, action, snsNamespace)
	_ = enc.EncodeElement(out, xml.StartElement{Name: xml.Name{Local: action + "Result"}})
	_, _ = fmt.Fprintf(w, `<ResponseMetadata><RequestId>%s</RequestId></ResponseMetadata></%sResponse>`, id, action)
}

func (s *Server) callSNS(r *http.Request) (string, any, Fault, error) {
	if err := r.ParseForm(); err != nil {
		return "", nil, Fault{}, badRequest("InvalidParameter", "body: %v", err)
	}
	action := r.PostForm.Get("Action")
	f, hit := s.begin(action)
	if !s.authorized(r) {
		return action, nil, f, &apiError{Status: http.StatusForbidden, Code: "InvalidClientTokenId", Message: "The security token included in the request is invalid"}
	}
	if hit {
		if err := f.refuse(r.Context()); err != nil {
			return action, nil, f, err
		}
	}
	act, ok := snsActions[action]
	if !ok {
		return action, nil, f, badRequest("InvalidAction", "%q is not part of this service", action)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	out, err := act(s, r.PostForm, f)
	return action, out, f, err
}

func validName(name string) bool {
	return len(name) <= 80 && named(strings.TrimSuffix(name, ".fifo"), 80, "")
}

func (s *Server) createTopic(name string, attrs map[string]string) (*topic, error) {
	fifo := strings.HasSuffix(name, ".fifo")
	switch {
	case !validName(name):
		return nil, badRequest("InvalidParameter", "Invalid parameter: Topic Name")
	case attrs["FifoTopic"] == "true" && !fifo:
		return nil, badRequest("InvalidParameter", "Invalid parameter: Fifo Topic names must end with .fifo")
	}
	t, ok := s.topics[name]
	if !ok {
		if len(s.topics) >= maxTopics {
			return nil, &apiError{Status: http.StatusForbidden, Code: "TopicLimitExceeded", Message: "too many topics"}
		}
		t = &topic{name: name, fifo: fifo, byContent: attrs["ContentBasedDeduplication"] == "true"}
		s.topics[name] = t
	}
	return t, nil
}

func (s *Server) topic(arn string) (*topic, error) {
	parts := strings.Split(arn, ":")
	if len(parts) != 6 || parts[2] != "sns" {
		return nil, badRequest("InvalidParameter", "Invalid parameter: TopicArn Reason: An ARN must have at least 6 elements, not %d", len(parts))
	}
	t, ok := s.topics[parts[5]]
	if !ok || arn != s.TopicARN(t.name) {
		return nil, &apiError{Status: http.StatusNotFound, Code: "NotFound", Message: "Topic does not exist"}
	}
	return t, nil
}

// formMap reads Attributes.entry.N.key and .value.
func formMap(form url.Values, prefix string) map[string]string {
	out := map[string]string{}
	for i := 1; ; i++ {
		p := prefix + ".entry." + strconv.Itoa(i) + "."
		if !form.Has(p + "key") {
			return out
		}
		out[form.Get(p+"key")] = form.Get(p + "value")
	}
}

func (s *Server) snsCreateTopic(form url.Values, _ Fault) (any, error) {
	t, err := s.createTopic(form.Get("Name"), formMap(form, "Attributes"))
	if err != nil {
		return nil, err
	}
	return struct{ TopicArn string }{s.TopicARN(t.name)}, nil
}

func (s *Server) snsDeleteTopic(form url.Values, _ Fault) (any, error) {
	if t, err := s.topic(form.Get("TopicArn")); err == nil {
		delete(s.topics, t.name)
	}
	return struct{}{}, nil
}

func (s *Server) snsListTopics(url.Values, Fault) (any, error) {
	type member struct{ TopicArn string }
	var out struct {
		Topics []member `xml:"Topics>member"`
	}
	for name := range s.topics {
		out.Topics = append(out.Topics, member{s.TopicARN(name)})
	}
	slices.SortFunc(out.Topics, func(a, b member) int { return strings.Compare(a.TopicArn, b.TopicArn) })
	return out, nil
}

func (s *Server) snsTopicAttributes(form url.Values, _ Fault) (any, error) {
	t, err := s.topic(form.Get("TopicArn"))
	if err != nil {
		return nil, err
	}
	type entry struct {
		Key   string `xml:"key"`
		Value string `xml:"value"`
	}
	var out struct {
		Entries []entry `xml:"Attributes>entry"`
	}
	add := func(k, v string) { out.Entries = append(out.Entries, entry{k, v}) }
	add("TopicArn", s.TopicARN(t.name))
	add("Owner", s.cfg.Account)
	add("SubscriptionsConfirmed", strconv.Itoa(len(t.subs)))
	add("MaximumMessageSize", strconv.Itoa(maxMessageSize))
	if t.fifo {
		add("FifoTopic", "true")
		add("ContentBasedDeduplication", strconv.FormatBool(t.byContent))
	}
	return out, nil
}

func (s *Server) snsSubscribe(form url.Values, _ Fault) (any, error) {
	t, err := s.topic(form.Get("TopicArn"))
	if err != nil {
		return nil, err
	}
	if p := form.Get("Protocol"); p != "sqs" {
		return nil, badRequest("InvalidParameter", "Invalid parameter: protocol %q: this service delivers to sqs only", p)
	}
	sub, err := s.subscribe(t, form.Get("Endpoint"), formMap(form, "Attributes"))
	if err != nil {
		return nil, err
	}
	return struct{ SubscriptionArn string }{sub.arn}, nil
}

func (s *Server) subscribe(t *topic, queueARN string, attrs map[string]string) (*subscription, error) {
	parts := strings.Split(queueARN, ":")
	if len(parts) != 6 || parts[2] != "sqs" {
		return nil, badRequest("InvalidParameter", "Invalid parameter: SQS endpoint ARN")
	}
	for _, sub := range t.subs {
		if sub.queue == parts[5] {
			return sub, nil
		}
	}
	if len(t.subs) >= maxSubscriptions {
		return nil, &apiError{Status: http.StatusForbidden, Code: "SubscriptionLimitExceeded", Message: "too many subscriptions"}
	}
	sub := &subscription{arn: s.TopicARN(t.name) + ":" + newID(), queue: parts[5], raw: attrs["RawMessageDelivery"] == "true"}
	t.subs = append(t.subs, sub)
	return sub, nil
}

func (s *Server) snsUnsubscribe(form url.Values, _ Fault) (any, error) {
	for _, t := range s.topics {
		t.subs = slices.DeleteFunc(t.subs, func(sub *subscription) bool { return sub.arn == form.Get("SubscriptionArn") })
	}
	return struct{}{}, nil
}

func (s *Server) snsSetSubscription(form url.Values, _ Fault) (any, error) {
	for _, t := range s.topics {
		for _, sub := range t.subs {
			if sub.arn == form.Get("SubscriptionArn") && form.Get("AttributeName") == "RawMessageDelivery" {
				sub.raw = form.Get("AttributeValue") == "true"
				return struct{}{}, nil
			}
		}
	}
	return nil, &apiError{Status: http.StatusNotFound, Code: "NotFound", Message: "Subscription or attribute does not exist"}
}

func (s *Server) snsListSubscriptions(form url.Values, _ Fault) (any, error) {
	t, err := s.topic(form.Get("TopicArn"))
	if err != nil {
		return nil, err
	}
	type member struct{ SubscriptionArn, Owner, Protocol, Endpoint, TopicArn string }
	var out struct {
		Subscriptions []member `xml:"Subscriptions>member"`
	}
	for _, sub := range t.subs {
		out.Subscriptions = append(out.Subscriptions, member{sub.arn, s.cfg.Account, "sqs", s.QueueARN(sub.queue), s.TopicARN(t.name)})
	}
	return out, nil
}

// snsMessage reads one message of Publish (prefix "") or PublishBatch.
func snsMessage(form url.Values, prefix string) (message, error) {
	m := message{
		ID: newID(), Body: form.Get(prefix + "Message"), Subject: form.Get(prefix + "Subject"),
		Group: form.Get(prefix + "MessageGroupId"), Dedup: form.Get(prefix + "MessageDeduplicationId"),
		Attributes: map[string]attribute{},
	}
	for i := 1; ; i++ {
		p := prefix + "MessageAttributes.entry." + strconv.Itoa(i) + "."
		if !form.Has(p + "Name") {
			return m, nil
		}
		a := attribute{DataType: form.Get(p + "Value.DataType"), StringValue: form.Get(p + "Value.StringValue")}
		if b := form.Get(p + "Value.BinaryValue"); b != "" {
			raw, err := base64.StdEncoding.DecodeString(b)
			if err != nil {
				return m, badRequest("InvalidParameterValue", "attribute %s: %v", form.Get(p+"Name"), err)
			}
			a.BinaryValue = raw
		}
		m.Attributes[form.Get(p+"Name")] = a
	}
}

func (s *Server) snsPublish(form url.Values, _ Fault) (any, error) {
	arn := form.Get("TopicArn")
	if arn == "" {
		arn = form.Get("TargetArn")
	}
	t, err := s.topic(arn)
	if err != nil {
		return nil, err
	}
	m, err := snsMessage(form, "")
	if err != nil {
		return nil, err
	}
	seq, err := s.publish(t, m)
	if err != nil {
		return nil, err
	}
	return struct {
		MessageId      string
		SequenceNumber string `xml:",omitempty"`
	}{m.ID, seq}, nil
}

func (s *Server) snsPublishBatch(form url.Values, f Fault) (any, error) {
	t, err := s.topic(form.Get("TopicArn"))
	if err != nil {
		return nil, err
	}
	type entry struct {
		id string
		message
	}
	var entries []entry
	total := 0
	for i := 1; ; i++ {
		p := "PublishBatchRequestEntries.member." + strconv.Itoa(i) + "."
		if !form.Has(p + "Id") {
			break
		}
		m, err := snsMessage(form, p)
		if err != nil {
			return nil, err
		}
		total += m.size()
		entries = append(entries, entry{form.Get(p + "Id"), m})
	}
	if err := checkBatch(entries, func(e entry) string { return e.id }, ""); err != nil {
		return nil, err
	}
	if total > maxMessageSize {
		return nil, badRequest("BatchRequestTooLong", "The length of all the messages put together is more than the limit.")
	}
	type success struct {
		Id             string
		MessageId      string
		SequenceNumber string `xml:",omitempty"`
	}
	var out struct {
		Successful []success `xml:"Successful>member"`
		Failed     []failure `xml:"Failed>member"`
	}
	for i, e := range entries {
		if fail, ok := f.entry(i); ok {
			fail.ID = e.id
			out.Failed = append(out.Failed, fail)
			continue
		}
		seq, err := s.publish(t, e.message)
		if err != nil {
			api := asAPI(err)
			out.Failed = append(out.Failed, failure{ID: e.id, Code: api.Code, Message: api.Message, SenderFault: api.Status < 500})
			continue
		}
		out.Successful = append(out.Successful, success{e.id, e.message.ID, seq})
	}
	return out, nil
}

// publish delivers m to the topic's queues and returns the FIFO sequence number.
func (s *Server) publish(t *topic, m message) (string, error) {
	if err := m.check("InvalidParameter"); err != nil {
		return "", err
	}
	now, seq := s.cfg.Now(), ""
	if t.fifo {
		if m.Dedup == "" && t.byContent {
			m.Dedup = bodyMD5(m.Body)
		}
		switch {
		case m.Group == "":
			return "", badRequest("InvalidParameter", "Invalid parameter: The MessageGroupId parameter is required for FIFO topics")
		case m.Dedup == "":
			return "", badRequest("InvalidParameter", "Invalid parameter: The topic should either have ContentBasedDeduplication enabled or MessageDeduplicationId provided explicitly")
		case !t.dedupe.add(m.Dedup, now):
			return sequence(uint64(len(t.dedupe.order))), nil
		}
		seq = sequence(uint64(len(t.dedupe.order)))
	}
	for _, sub := range t.subs {
		q, ok := s.queues[sub.queue]
		if !ok || (sub.raw && len(m.Attributes) > maxAttributes) {
			continue // AWS discards these without telling the publisher
		}
		out := m
		out.ID = newID()
		if !sub.raw {
			out.Body, out.Attributes = s.envelope(t, m, now), nil
		}
		if _, err := q.push(out, now, s.cfg.MaxStored); err != nil {
			return "", &apiError{Status: http.StatusInternalServerError, Code: "InternalError", Message: err.Error()}
		}
	}
	return seq, nil
}

// envelope is the notification a subscription without raw delivery gets.
func (s *Server) envelope(t *topic, m message, now time.Time) string {
	type attr struct{ Type, Value string }
	doc := struct {
		Type, MessageId, TopicArn string
		Subject                   string `json:",omitempty"`
		Message, Timestamp        string
		SignatureVersion          string
		Signature, SigningCertURL string
		UnsubscribeURL            string
		MessageAttributes         map[string]attr `json:",omitempty"`
	}{
		Type: "Notification", MessageId: m.ID, TopicArn: s.TopicARN(t.name), Subject: m.Subject, Message: m.Body,
		Timestamp: now.UTC().Format("2006-01-02T15:04:05.000Z"), SignatureVersion: "1", Signature: "none",
		SigningCertURL: "https://sns.invalid/none.pem", UnsubscribeURL: "https://sns.invalid/", MessageAttributes: map[string]attr{},
	}
	for name, a := range m.Attributes {
		v := a.StringValue
		if strings.HasPrefix(a.DataType, "Binary") {
			v = base64.StdEncoding.EncodeToString(a.BinaryValue)
		}
		doc.MessageAttributes[name] = attr{a.DataType, v}
	}
	var b strings.Builder
	enc := json.NewEncoder(&b)
	enc.SetEscapeHTML(false)
	if err := enc.Encode(doc); err != nil {
		return io.ErrUnexpectedEOF.Error() // plain strings always encode
	}
	return strings.TrimSuffix(b.String(), "\n")
}
