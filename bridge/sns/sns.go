// Package sns is the bridge's AWS driver: a sink that publishes events to an SNS
// topic and a source that reads an SQS queue, most often one subscribed to a
// topic. It decides nothing about order, retry or subjects. No compatibility
// promise.
//
// There is no CloudEvents binding for SNS; Weft writes the binary mode as the
// Kafka binding does: message attributes ce_id, ce_type and so on, content-type,
// traceparent, and the data as message. SNS discards a message with more than
// ten attributes on its way to SQS, so the attributes that come last are packed
// as one JSON object into weft_headers. Data that SNS cannot carry (empty, or not
// UTF-8 text of XML's characters) goes as a structured event.
package sns

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	awsconfig "github.com/aws/aws-sdk-go-v2/config"
	"github.com/aws/aws-sdk-go-v2/credentials"
	snstypes "github.com/aws/aws-sdk-go-v2/service/sns/types"
	sqstypes "github.com/aws/aws-sdk-go-v2/service/sqs/types"
	"github.com/aws/smithy-go"
	smithyhttp "github.com/aws/smithy-go/transport/http"
	"weft.dev/weft/internal/conf"
)

const (
	maxEntries  = 10               // of one batch call, both services
	callTimeout = 30 * time.Second // of one call that is no long poll
)

// AWS is how to reach the service.
type AWS struct {
	Region       string      `yaml:"region" doc:"AWS region; empty: from the environment"`
	Endpoint     string      `yaml:"endpoint" doc:"Address of the service; empty: AWS itself"`
	AccessKey    string      `yaml:"accessKey" doc:"Access key id; empty: the usual chain of environment, files and instance roles"`
	SecretKey    conf.Secret `yaml:"secretKey" doc:"Secret access key"`
	SessionToken conf.Secret `yaml:"sessionToken" doc:"Session token of temporary credentials"`
}

// Validate names every key that cannot work.
func (a AWS) Validate() error {
	var errs []error
	if a.Endpoint != "" {
		errs = append(errs, conf.URL("endpoint", a.Endpoint, "http", "https"))
	}
	if (a.AccessKey == "") != (a.SecretKey == "") {
		errs = append(errs, conf.Field("secretKey", "want accessKey and secretKey together"))
	}
	if a.AccessKey == "" && a.SessionToken != "" {
		errs = append(errs, conf.Field("sessionToken", "want accessKey and secretKey with it"))
	}
	return errors.Join(errs...)
}

// load makes the client configuration. Retries are the engine's, so that its
// state shows them.
func (a AWS) load(ctx context.Context) (aws.Config, error) {
	opts := []func(*awsconfig.LoadOptions) error{awsconfig.WithRetryMaxAttempts(1)}
	if a.Region != "" {
		opts = append(opts, awsconfig.WithRegion(a.Region))
	}
	if a.AccessKey != "" {
		opts = append(opts, awsconfig.WithCredentialsProvider(
			credentials.NewStaticCredentialsProvider(a.AccessKey, a.SecretKey.Reveal(), a.SessionToken.Reveal())))
	}
	cfg, err := awsconfig.LoadDefaultConfig(ctx, opts...)
	if err != nil {
		return cfg, fmt.Errorf("load aws configuration: %w", err)
	}
	if a.Endpoint != "" {
		cfg.BaseEndpoint = aws.String(a.Endpoint)
	}
	cfg.HTTPClient = &http.Client{Transport: transport()}
	return cfg, nil
}

// hangUp closes the idle connections of a client configuration.
func hangUp(cfg aws.Config) {
	if c, ok := cfg.HTTPClient.(*http.Client); ok {
		c.CloseIdleConnections()
	}
}

// transport keeps a connection for every call that may run at once.
func transport() *http.Transport {
	t := http.DefaultTransport.(*http.Transport).Clone()
	t.MaxIdleConnsPerHost = 2 * maxParallel
	return t
}

// explain adds what an operator can do to the errors that need one.
func explain(target string, err error) error {
	var topic *snstypes.NotFoundException
	var queue *sqstypes.QueueDoesNotExist
	var api smithy.APIError
	var sent *smithyhttp.RequestSendError
	switch {
	case errors.As(err, &topic), errors.As(err, &queue):
		return fmt.Errorf("%s does not exist: %w", target, err)
	case errors.As(err, &api) && denied(api.ErrorCode()):
		return fmt.Errorf("aws denies access to %s: %w", target, err)
	case errors.As(err, &sent): // the layers around it say nothing
		return fmt.Errorf("reach aws: %w", sent.Err)
	}
	return err
}

func denied(code string) bool {
	switch code {
	case "InvalidClientTokenId", "SignatureDoesNotMatch", "AccessDenied", "AccessDeniedException", "AuthorizationError", "ExpiredToken", "InvalidSecurity":
		return true
	}
	return strings.HasPrefix(code, "KMS")
}
