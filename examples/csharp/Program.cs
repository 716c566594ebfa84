// Sends a command, or prints the journal: see docs/http.md.
//   send URL,URL... NAME ARGS     follow URL,URL... POSITION
// A token is read from the variable NODECTL_TOKEN.

using System;

namespace Nodectl
{
    public static class Program
    {
        static readonly TimeSpan Limit = TimeSpan.FromSeconds(30);

        static void Print(StreamEvent item) { Console.WriteLine(item.Position + " " + item.Data); }

        public static int Main(string[] argv)
        {
            var isSend = argv.Length == 4 && argv[0] == "send";
            if (!isSend && !(argv.Length == 3 && argv[0] == "follow"))
            {
                Console.Error.WriteLine("usage: send URL,URL... NAME ARGS | follow URL,URL... POSITION");
                return 2;
            }
            using (var masters = new Masters(argv[1].Split(','), Environment.GetEnvironmentVariable("NODECTL_TOKEN")))
            {
                try
                {
                    if (isSend) Console.WriteLine(masters.Send(argv[2], argv[3], Limit).GetAwaiter().GetResult().Index);
                    else masters.Follow(argv[2], Print).GetAwaiter().GetResult();
                    return 0;
                }
                catch (MastersException error)
                {
                    Console.Error.WriteLine(error.Code + ": " + error.Message);
                    return 1;
                }
            }
        }
    }
}
