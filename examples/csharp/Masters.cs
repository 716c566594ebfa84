// A client of nodectl's masters, as docs/http.md describes the protocol. It needs no package but those of .NET.

using System;
using System.Collections.Generic;
using System.IO;
using System.Net.Http;
using System.Net.Http.Headers;
using System.Runtime.Serialization;
using System.Runtime.Serialization.Json;
using System.Text;
using System.Threading;
using System.Threading.Tasks;

namespace Nodectl
{
    /// <summary>What this client reads of answers. Fields that an answer lacks keep their default.</summary>
    [DataContract]
    public sealed class Answer
    {
        [DataMember(Name = "index")] public long? Index;
        [DataMember(Name = "repeated")] public bool Repeated;
        [DataMember(Name = "took_effect")] public bool TookEffect;
        [DataMember(Name = "code")] public string Code = "";
        [DataMember(Name = "detail")] public string Detail = "";
        [DataMember(Name = "leader_url")] public string LeaderUrl;
        [DataMember(Name = "retry_after_s")] public double RetryAfterS;
        public int Status;
    }

    /// <summary>A command or stream failed. Code: what happened, for programs.</summary>
    public sealed class MastersException : Exception
    {
        public readonly string Code;
        public MastersException(string code, string detail) : base(detail) { Code = code; }
    }

    /// <summary>One event of a stream.</summary>
    public sealed class StreamEvent
    {
        public string Position = "", Kind = "", Data = "";
    }

    public sealed class Masters : IDisposable
    {
        static readonly TimeSpan SettleTime = TimeSpan.FromSeconds(12), SilenceTime = TimeSpan.FromSeconds(12);
        const int PauseMs = 100, PauseMaxMs = 2000;

        readonly HttpClient http = new HttpClient { Timeout = Timeout.InfiniteTimeSpan };
        readonly List<string> urls;
        readonly string token;
        readonly Random random = new Random();
        string target;

        /// <param name="urls">The URLs of some masters, such as https://10.0.0.1:8401.</param>
        /// <param name="token">A token, or null. It is sent over TLS and loopback only.</param>
        public Masters(IEnumerable<string> urls, string token = null)
        {
            this.urls = new List<string>(urls);
            this.token = token;
            target = this.urls[0];
        }

        public void Dispose() { http.Dispose(); }

        /// <summary>Run a command exactly once, whichever masters die meanwhile. args: a JSON object. limit: no attempt
        /// begins later; the last answer, and the question what became of the command, may take 24 seconds more.
        /// </summary>
        public async Task<Answer> Send(string name, string args, TimeSpan limit)
        {
            var deadline = DateTime.UtcNow + limit;
            var id = Guid.NewGuid().ToString("N");
            var after = await PresentIndex(deadline);
            var mayHaveRun = false;
            for (var attempt = 0; DateTime.UtcNow < deadline; attempt++)
            {
                var answer = await Post("/v1/commands", Body(id, after, name, args));
                if (answer != null && answer.Status == 200) return answer;
                if (answer != null && answer.Code == "too_old" && !mayHaveRun)
                    after = await PresentIndex(deadline);  // no attempt has run, so a new `after` is safe
                else if (answer != null && answer.Status < 500)
                    throw new MastersException(answer.Code, answer.Detail);
                else
                    mayHaveRun = true;  // no answer, or a 5xx
                await Pause(attempt, answer);
            }
            if (!mayHaveRun) throw new MastersException("unavailable", "no master ran the command");
            return await Settle(id, after);
        }

        /// <summary>What became of a command without an answer. If it has not run, it never will.</summary>
        async Task<Answer> Settle(string id, long after)
        {
            var deadline = DateTime.UtcNow + SettleTime;
            for (var attempt = 0; DateTime.UtcNow < deadline; attempt++)
            {
                var question = "{\"id\":\"" + id + "\",\"after\":" + after + "}";
                var answer = await Post("/v1/commands/outcome", question);
                if (answer != null && answer.Status == 200 && answer.TookEffect) return answer;
                if (answer != null && answer.Status == 200)
                    throw new MastersException("unavailable", "the command has not run, and will not");
                if (answer != null && answer.Status < 500) throw new MastersException(answer.Code, answer.Detail);
                await Pause(attempt, answer);
            }
            throw new MastersException("outcome_unknown", "command " + id + " after " + after + " may have run");
        }

        /// <summary>Call `seen` with each event after a position, across failures of masters. Only an error ends it.
        /// </summary>
        public async Task Follow(string position, Action<StreamEvent> seen)
        {
            for (var attempt = 0; ; attempt++)
            {
                try
                {
                    using (var request = Request(HttpMethod.Get, "/v1/events?after=" + position))
                    using (var answer = await Sent(request))
                    {
                        if (!answer.IsSuccessStatusCode) Refuse(await Parsed(answer));
                        else using (var reader = new StreamReader(await answer.Content.ReadAsStreamAsync()))
                            while (await Next(reader) is StreamEvent item)
                            {
                                if (item.Kind == "gone") throw new MastersException("too_old", item.Data);
                                if (item.Kind != "") seen(item);
                                if (item.Position != "") position = item.Position;  // only when `seen` has returned
                                attempt = 0;
                            }
                    }
                }
                catch (Exception error) when (IsBroken(error)) { }
                NextUrl();
                await Pause(attempt, null);
            }
        }

        /// <summary>The next event; null at the end of the stream. One without a name holds a position alone.</summary>
        static async Task<StreamEvent> Next(StreamReader reader)
        {
            var item = new StreamEvent();
            string line;
            while ((line = await Within(reader.ReadLineAsync())) != null)
            {
                if (line == "" && (item.Kind != "" || item.Position != "")) return item;
                if (line.StartsWith("id: ")) item.Position = line.Substring(4);
                if (line.StartsWith("event: ")) item.Kind = line.Substring(7);
                if (line.StartsWith("data: ")) item.Data = line.Substring(6);
            }
            return null;
        }

        /// <summary>Any index at which the cluster was, from whichever master answers.</summary>
        async Task<long> PresentIndex(DateTime deadline)
        {
            for (var attempt = 0; DateTime.UtcNow < deadline; attempt++)
            {
                var answer = await Ask(Request(HttpMethod.Get, "/v1/health"));
                if (answer != null && answer.Status == 200 && answer.Index is long index) return index;
                await Pause(attempt, answer);
            }
            throw new MastersException("unavailable", "no master answers");
        }

        Task<Answer> Post(string path, string body)
        {
            var request = Request(HttpMethod.Post, path);
            request.Content = new StringContent(body, Encoding.UTF8, "application/json");
            return Ask(request);
        }

        /// <summary>The answer; null without one. Without one and after a 5xx the next request goes elsewhere.</summary>
        async Task<Answer> Ask(HttpRequestMessage request)
        {
            try
            {
                using (request)
                using (var answer = await Sent(request))
                {
                    var parsed = await Parsed(answer);
                    if (parsed.Status == 503 && parsed.LeaderUrl != null) target = parsed.LeaderUrl;
                    else if (parsed.Status >= 500) NextUrl();
                    return parsed;
                }
            }
            catch (Exception error) when (IsBroken(error))
            {
                NextUrl();
                return null;
            }
        }

        HttpRequestMessage Request(HttpMethod method, string path)
        {
            var request = new HttpRequestMessage(method, target + path);
            if (token != null && (request.RequestUri.Scheme == "https" || request.RequestUri.IsLoopback))
                request.Headers.Authorization = new AuthenticationHeaderValue("Bearer", token);
            return request;
        }

        /// <summary>The answer, of which only the headers have arrived.</summary>
        async Task<HttpResponseMessage> Sent(HttpRequestMessage request)
        {
            using (var limit = new CancellationTokenSource(SilenceTime))
                return await http.SendAsync(request, HttpCompletionOption.ResponseHeadersRead, limit.Token);
        }

        static async Task<Answer> Parsed(HttpResponseMessage answer)
        {
            var body = await Within(answer.Content.ReadAsByteArrayAsync());
            var parsed = (Answer)new DataContractJsonSerializer(typeof(Answer)).ReadObject(new MemoryStream(body));
            parsed.Status = (int)answer.StatusCode;
            return parsed;
        }

        static void Refuse(Answer answer)
        {
            if (answer.Status < 500) throw new MastersException(answer.Code, answer.Detail);
        }

        static string Body(string id, long after, string name, string args)
        {
            return "{\"id\":\"" + id + "\",\"after\":" + after + ",\"name\":\"" + name + "\",\"args\":" + args + "}";
        }

        static bool IsBroken(Exception error)
        {
            return error is HttpRequestException || error is IOException || error is TimeoutException
                || error is OperationCanceledException || error is SerializationException;
        }

        static async Task<T> Within<T>(Task<T> task)
        {
            if (await Task.WhenAny(task, Task.Delay(SilenceTime)) != task) throw new TimeoutException();
            return await task;
        }

        void NextUrl() { target = urls[(urls.IndexOf(target) + 1) % urls.Count]; }

        /// <summary>Wait as long as the answer asks, and a time by chance that grows with each attempt.</summary>
        Task Pause(int attempt, Answer answer)
        {
            var most = Math.Min(PauseMaxMs, PauseMs << Math.Min(attempt, 5));
            var asked = answer == null ? 0 : (int)(1000 * Math.Min(answer.RetryAfterS, 10));
            return Task.Delay(asked + random.Next(most / 2, most));
        }
    }
}
