FROM BASE AS s
RUN echo stage > /f && chmod 600 /f
FROM BASE
RUN mkdir /ctx /st && touch /one
RUN --mount=type=bind,target=/ctx,source=dir cat /ctx/x > /got
RUN --mount=type=bind,target=/st,from=s cat /st/f > /staged
RUN --mount=type=bind,target=/one,source=a.txt cat /one > /single
